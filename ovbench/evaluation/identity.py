"""Identify by content what a count depends on: the files of an image, the cell with its data, the code.

The identities of an image's files are stored with its counts: an image whose files changed is counted again.
Everything else is in the header of the ledger, and its hash is in the ledger's name. So another vocabulary, class list,
image list, checkpoint, file in a setting, or version of code or library gives another ledger beside the first. The
record's name does not depend on the code: the record has the counts of the newest code and the name of its ledger.
Files that code reads without a setting, and modules imported by a computed name, are not covered.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from modulefinder import ModuleFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ovbench.backbones.base import Use
from ovbench.backbones.build import official_weights
from ovbench.backbones.checkpoint import file_sha256
from ovbench.config.load import Cell, templates
from ovbench.data.corrupt import corruption_files
from ovbench.data.dataset import Dataset
from ovbench.data.decode import FileIdentity
from ovbench.data.descriptions import find_set
from ovbench.data.labels import LabelMap
from ovbench.data.sources import container_of, is_file_here, read_source, source_facts
from ovbench.evaluation.ledger import header_digest
from ovbench.methods.plugins import short_name
from ovbench.utils import provenance as env
from ovbench.utils.errors import InputError
from ovbench.utils.paths import real_path
from ovbench.utils.registry import BACKBONES, METHODS, REGIONS, Registry, entry_points

if TYPE_CHECKING:
    from ovbench.evaluation.distributed import Shard
    from ovbench.evaluation.plan import PlannedCell

PACKAGE = Path(__file__).resolve().parents[1]
# code that cannot change a label: interface, display, checks, and code whose output (data, weights) is identified
NO_LABELS = (
    "__main__.py", "cli", "cluster", "config/nearest_published.py", "config/official.py", "config/published_runs.py",
    "config/setting_changes.py", "data/mini", "data/prepare", "evaluation/conformance.py", "evaluation/cost.py",
    "evaluation/doctor.py", "inference/cache.py", "inference/image_outputs.py", "inference/label_files.py",
    "inference/overlay.py", "inference/segment.py", "inference/visualize.py", "metrics/influence.py",
    "metrics/interval.py", "metrics/iou.py", "metrics/named.py", "metrics/power.py", "metrics/similarity.py",
    "metrics/stacked.py", "parity", "results",
    "training/talk2dino",
)  # fmt: skip
CHUNK = 1 << 20
CODE_KEYS = ("ovbench", "code")  # keys of a header about software and device
LONGEST_NAME = 60  # characters of a method's or dataset's name in a file name
PKG_DIRECTORY = 5  # a constant of Python's modulefinder
SAMPLED = 16  # approximate number of images that are read for the hash of a dataset


def identity_of(path: Path) -> FileIdentity:
    """Return the identity of a file's present content.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    if not is_file_here(path):
        data, facts = read_source(path)
        digest.update(data)
        return FileIdentity(facts.size, facts.mtime_ns, digest.hexdigest())
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return FileIdentity(found.st_size, found.st_mtime_ns, digest.hexdigest())


def is_still(noted: FileIdentity, path: Path) -> bool:
    """Return whether a file is unchanged: same size and time, otherwise same content.

    A member of an archive, table or list of annotations may be unchanged although its container has changed.
    """
    try:
        found, is_member = source_facts(path), container_of(path) is not None
        if found == (noted.size, noted.mtime_ns):
            return True
        return (is_member or found.size == noted.size) and identity_of(path).digest == noted.digest
    except (OSError, InputError):
        return False


def region_maps(pipeline: Any) -> Any:
    """Return the pipeline's region maps, None if the method has none."""
    return getattr(pipeline, "region_maps", None)


def image_files(dataset: Dataset, index: int, maps: Any = None) -> dict[str, Path]:
    """Return the files that an image's counts depend on: image, label, and region map if it is a file.

    Args:
        dataset: The images and labels.
        index: Position of the image in the split, from 0.
        maps: The region maps; None if the method has none.
    """
    item = dataset.items[index]
    regions = None if maps is None else maps.file(item.image_path)
    return {"image": item.image_path, "label": item.label_path, **({"regions": regions} if regions else {})}


def unchanged(noted: Mapping[str, list[Any]] | None, files: Mapping[str, Path]) -> bool:
    """Return whether the files of an image are the ones stored with its counts."""
    if noted is None or noted.keys() != files.keys():
        return False
    return all(is_still(FileIdentity(*noted[name]), path) for name, path in files.items())


def data_digest(dataset: Dataset, numbers: Iterable[int]) -> str:
    """Return a hash that distinguishes copies of a dataset, from the sizes of all files and the content of some.

    Args:
        dataset: The images and labels.
        numbers: Numbers of the images.

    Returns:
        The hash, "" if a file is missing.
    """
    numbers, digest = list(numbers), hashlib.sha256()
    read = set(numbers[:: max(1, len(numbers) // SAMPLED)])
    try:
        for number in numbers:
            for path in image_files(dataset, number).values():
                content = identity_of(path).digest if number in read else ""
                digest.update(f"{source_facts(path).size} {content}\n".encode())
    except (OSError, InputError):
        return ""
    return digest.hexdigest()


def dataset_header(planned: PlannedCell) -> dict[str, Any]:
    """Return the header's entry on the scored images and their labels, see `ledger_header`."""
    card, dataset = planned.dataset.card, planned.dataset
    layout = next((each for each in card.layouts if each.name == dataset.layout), None)
    return {
        "title": card.title,
        "split": card.split,
        "split_images": card.image_count or planned.split_images,
        "layout": dataset.layout,
        "label_rule": dataset.label_rule,
        "subset_sha256": dataset.subset_sha256,
        "classes": list(card.classes),
        "background": card.background,
        "white": card.white,
        **({"classes_of_interest": list(card.classes_of_interest)} if card.classes_of_interest else {}),
        "card": "ovbench" if card.is_shipped else "own",
        "split_sha256": planned.split_sha256,
        "files": layout.files if layout else [],
        "encoding": dataset.labels.encoding.name,
        "encoding_sha256": _encoding_sha256(dataset.labels),
        **({"class_list": planned.queries.given} if planned.queries.given else {}),
        **({"distractors": len(planned.queries.distractors)} if planned.queries.distractors else {}),
    }


def ledger_header(planned: PlannedCell, pipeline: Any) -> dict[str, Any]:
    """Return everything that runs must have in common if their counts are added, except images and labels."""
    cell = planned.cell
    return {
        "cell": cell.as_dict(),
        "settings_sha256": cell.digest(),
        "dataset": dataset_header(planned),
        "vocabulary": [list(queries) for queries in planned.queries.classes],
        **({"distractors": list(planned.queries.distractors)} if planned.queries.distractors else {}),
        "weights": _weights(pipeline),
        "use": {name: loaded.use.as_dict() for name, loaded in pipeline.loaded.items() if loaded.use != Use()},
        "files": named_files(cell, region_maps(pipeline)),
        "execution": planned.execution.as_dict(),
        **({"metrics": list(planned.metrics)} if planned.metrics else {}),
        "code": code_identity(cell, planned.device),
    }


def _weights(pipeline: Any) -> dict[str, dict[str, str]]:
    official = official_weights({name: loaded.spec for name, loaded in pipeline.loaded.items()})
    return {
        name: {"name": loaded.spec, "sha256": loaded.sha256}
        | ({"official": official[name]} if name in official else {})
        for name, loaded in pipeline.loaded.items()
    }


def _encoding_sha256(labels: LabelMap) -> str:
    own, text = labels.encoding, ""
    if own.colours:
        text = json.dumps((own.colours, own.void_colours, own.ignores_others))
    if own.categories:
        text = json.dumps((own.categories, own.background, own.ignores_others))
    return hashlib.sha256(labels.table.tobytes() + text.encode()).hexdigest()


def named_files(cell: Cell, maps: Any = None) -> dict[str, str]:
    """Return the hashes of prompts, descriptions, photos, region weights, and all files and folders in settings.

    Backbones have their own hashes. A folder of region maps is identified image by image.

    Args:
        cell: The settings.
        maps: The region maps, None if the method has none.

    Returns:
        sha256 by the name of the setting.
    """
    found = {"protocol.templates": _sha256("\n".join(templates(cell.protocol.templates)).encode())}
    if cell.protocol.descriptions and (path := find_set(cell.protocol.descriptions)):
        found["protocol.descriptions"] = file_sha256(path)
    if photos := corruption_files(cell.protocol.corrupt):
        found["protocol.corrupt"] = _sha256("".join(map(file_sha256, photos)).encode())
    if maps is not None:
        store = getattr(maps, "store", None)
        weights = store.description["weights_sha256"] if store else maps.source.weights_sha256()
        found |= {"regions.weights_sha256": weights} if weights else {}
    by_image = getattr(getattr(maps, "source", None), "by_image", ())
    plain = cell.as_dict()
    for table in ("params", "protocol", "regions"):
        for key, value in plain[table].items():
            for text in value if isinstance(value, list) else [value]:
                if f"{table}.{key}" in found or key in by_image or not _may_be_path(text):
                    continue
                if Path(text).expanduser().exists():
                    found[f"{table}.{key}"] = file_sha256(Path(text).expanduser())
    return found


def _may_be_path(text: Any) -> bool:
    return isinstance(text, str) and "\0" not in text and len(text) < 4096 and ("/" in text or bool(Path(text).suffix))


def code_identity(cell: Cell, device: str) -> dict[str, Any]:
    """Identify the code that can change a label: ovbench, third-party code, libraries, device type."""
    regions = cell.regions.get("source")
    hashes = {name: _code_sha256(BACKBONES, name) for name in cell.backbones if name in BACKBONES.entries()}
    third_party = {name: sha256 for name, sha256 in hashes.items() if sha256}
    return {
        **({"backbones": third_party} if third_party else {}),
        "ovbench": _package_sha256(),
        "method": _code_sha256(METHODS, cell.method),
        "regions": _code_sha256(REGIONS, regions) if regions else None,
        "packages": {name: version for name, version in env.versions().items() if name != "ovbench"},
        "device": torch.device(device).type,
    }


@functools.cache
def _package_sha256() -> str:
    """Hash all modules of ovbench that can change labels; in doubt, a module is included."""
    files = (path for path in PACKAGE.rglob("*.py") if "_shipped" not in path.parts)
    return _files_sha256(p for p in files if not _is_under(p.relative_to(PACKAGE).as_posix(), NO_LABELS))


def _is_under(name: str, folders: Iterable[str]) -> bool:
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)


def _code_sha256(registry: Registry, name: str) -> str | None:
    """Hash the code of a registered name; None if it is part of ovbench."""
    files = code_files(registry, name)
    return _files_sha256(files) if files else None


def code_files(registry: Registry, name: str) -> list[Path]:
    """Return the source files of a third-party method or region source.

    These are its module and all modules that it imports from below its folder; for an installed package, all modules of
    its distribution.

    Args:
        registry: Methods or region sources.
        name: The name in the registry, or ``FILE.py:Class``.
    """
    point = None
    if ":" in name:
        target = name
    else:
        point = next((p for p in entry_points(registry.group or "") if p.name == name), None)
        target = point.value if point else registry.entries().get(name, "ovbench")  # scored label maps have no code
    source = target.rpartition(":")[0] if ":" in target else target
    if source.endswith(".py"):
        path = real_path(source)
        return _imported_below(path.parent, path)
    if source.partition(".")[0] == "ovbench":
        return []
    return _module_files(source.strip(), point)


def _module_files(module: str, point: EntryPoint | None) -> list[Path]:
    top = importlib.util.find_spec(module.partition(".")[0])
    found = importlib.util.find_spec(module)
    origin = Path(found.origin).resolve() if found and found.origin else None
    files = {origin} if origin else set()
    for folder in map(Path, (top.submodule_search_locations or ()) if top else ()):
        files |= {path.resolve() for path in folder.rglob("*.py")}
    root = Path(next(iter(top.submodule_search_locations))).parent if top and top.submodule_search_locations else None
    root = root or (origin.parent if origin else None)
    if point is not None and point.dist is not None:
        listed = (Path(str(point.dist.locate_file(f))).resolve() for f in point.dist.files or () if f.suffix == ".py")
        files |= {path for path in listed if path.is_file()}
    if root and origin and root.name not in ("site-packages", "dist-packages"):
        files |= set(_imported_below(root.resolve(), origin))
    return sorted(files)


class _Finder(ModuleFinder):
    """A finder that also accepts folders without ``__init__.py``, even if named like a library."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        try:
            return super().find_module(name, path, parent)
        except AttributeError:  # the folder has no loader
            folder = next(where for where in map(Path, path or self.path) if (where / name).is_dir())
            return None, str(folder / name), ("", "", PKG_DIRECTORY)

    def load_package(self, fqname: str, pathname: str) -> Any:
        if (Path(pathname) / "__init__.py").is_file():
            return super().load_package(fqname, pathname)
        module: Any = self.add_module(fqname)
        module.__path__ = [pathname]
        return module


def _imported_below(folder: Path, file: Path) -> list[Path]:
    """Return a file and all files of its folder that it imports, also inside functions, without running code."""
    finder = _Finder(path=[str(folder)])
    try:
        finder.run_script(str(file))
    except (SyntaxError, ValueError, OSError):  # the import fails, or its failure is handled
        return sorted({file, *folder.rglob("*.py")})
    files = (getattr(module, "__file__", None) for module in finder.modules.values())
    named = (Path(name).resolve() for name in files if name)
    return sorted({file, *(path for path in named if path.suffix == ".py")})


def _files_sha256(files: Iterable[Path]) -> str:
    """Hash relative names and contents."""
    files = sorted(files)
    common = Path(os.path.commonpath([path.parent for path in files])) if files else Path()
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(common).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def run_name(header: Mapping[str, Any]) -> str:
    """Return the name of a ledger's folder: it differs if settings, data or code differ."""
    return _name(header, header)


def record_stem(header: Mapping[str, Any]) -> str:
    """Return the first part of a cell's record names.

    It does not depend on code and libraries, so the record of a newer run replaces the older one. Records of the CPU
    and of a GPU have different names.
    """
    device = header.get("code", {}).get("device", "cpu")
    stem = _name(header, {key: value for key, value in header.items() if key not in CODE_KEYS})
    return stem if device == "cpu" else f"{stem}-{_plain(str(device))}"


def record_name(header: Mapping[str, Any], limit: int | None, shard: Shard | None = None) -> str:
    """Return the file name of a record; it also depends on the limit and the shard.

    Args:
        header: Header of the ledger.
        limit: Number of first images; None for all.
        shard: The shard; None for all images.
    """
    first = "" if limit is None else f"-first{int(limit)}"
    return record_stem(header) + first + (f"-shard{shard.number}of{shard.of}" if shard else "") + ".json"


def _name(header: Mapping[str, Any], known_by: Mapping[str, Any]) -> str:
    cell = header["cell"]
    method = short_name(cell["method"]) if ":" in cell["method"] else cell["method"]
    digest = str(header["settings_sha256"])[:8]
    return f"{_plain(method)}-{_plain(Path(cell['dataset']).stem)}-{_plain(digest)}-{header_digest(known_by)[:8]}"


def _plain(text: str) -> str:
    """Return a text with only the characters that are safe in a file name."""
    return re.sub(r"[^\w.+-]", "_", text).strip(".")[:LONGEST_NAME]
