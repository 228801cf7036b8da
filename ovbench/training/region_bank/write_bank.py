"""Write the files of a bank: stores, index and manifests in the official format, and the note about their origin."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ovbench.backbones.checkpoint import file_sha256
from ovbench.methods.support.backbone import read_store
from ovbench.methods.support.bank import RegionBank
from ovbench.methods.support.bank_files import FORMAT, KEYS, MANIFESTS, VALUES, note_path
from ovbench.methods.support.faiss_search import measure_recall
from ovbench.methods.support.index_file import read_index
from ovbench.training.region_bank.index_writer import write_index, write_store
from ovbench.utils import provenance as env
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_text, write_bytes, write_json
from ovbench.utils.version import package_version

NEIGHBOURS = 20  # of the recall in the note


class BankImages(NamedTuple):
    """The images of a bank, in the order of their rows.

    Attributes:
        stems: Names of the images with rows.
        counts: Rows of each.
        without: Names of images without a region.
    """

    stems: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(self.counts)


class BankContent(NamedTuple):
    """What a bank consists of.

    Attributes:
        identity: What every row depends on.
        names: Names of "main", "auxiliary" ("" for none) and "vfm" in the names of the files.
        images: The images.
        blocks: float16 blocks of rows of each store: "keys", "main", "auxiliary".
        failed: Reason by image.
    """

    identity: dict[str, Any]
    names: dict[str, str]
    images: BankImages
    blocks: Mapping[str, list[Tensor]]
    failed: dict[str, str]


def store_paths(base: Path, names: Mapping[str, str]) -> dict[str, Path]:
    """Return the file of each store of a bank FOLDER/NAME: "keys", "main" and perhaps "auxiliary"."""
    named = {"keys": (KEYS, "vfm"), "main": (VALUES, "main"), "auxiliary": (VALUES, "auxiliary")}
    return {
        role: base.parent / folder / f"{base.name}_{names[name]}.pt"
        for role, (folder, name) in named.items()
        if names[name]
    }


def manifest_paths(base: Path) -> tuple[Path, Path]:
    """Return the files with the images and with the rows of a bank; they may be beside the stores."""
    names = (f"{base.name}.images.tsv", f"{base.name}.manifest.txt")
    folder = base.parent if (base.parent / names[0]).is_file() else base.parent / MANIFESTS
    return folder / names[0], folder / names[1]


def index_path(base: Path, names: Mapping[str, str]) -> Path:
    """Return the index file of a bank."""
    return base.parent / KEYS / f"{base.name}_{names['vfm']}.faiss"


def read_images(base: Path, note: Mapping[str, Any] | None) -> BankImages:
    """Return the images of a bank; none if there is no note.

    Raises:
        InputError: If the list of images is missing or does not agree with the note.
    """
    if note is None:
        return BankImages()
    path = manifest_paths(base)[0]
    images = parse_images(path, note["images"])
    if images.rows != note["rows"]:
        raise InputError(f"it lists {images.rows} rows, the note {note['rows']}", where=str(path))
    return images._replace(without=tuple(note["without_regions"]))


def parse_images(path: Path, limit: int | None = None) -> BankImages:
    """Read the first lines "stem<TAB>first row<TAB>rows" of a list of images.

    Raises:
        InputError: If a line has another form, or rows are missing between two images.
    """
    stems, counts, first = [], [], 0
    for number, line in enumerate(read_text(path, "list of images").splitlines()[:limit], 1):
        try:
            stem, start, count = line.split("\t")
            if int(start) != first or int(count) < 1:
                raise ValueError
        except ValueError:
            raise InputError(f'line {number} is "{line[:60]}"', where=str(path), fix="build the bank again") from None
        stems.append(stem)
        counts.append(int(count))
        first += int(count)
    return BankImages(tuple(stems), tuple(counts))


def write_bank(base: Path, content: BankContent, index: str, known: int = 0) -> dict[str, Any]:
    """Write the files of a bank and return its note.

    The note is written last, so a bank whose build was killed still has the rows that its old note counts.

    Args:
        base: FOLDER/NAME.
        content: The rows and their origin.
        index: "flat" or "ivfpq".
        known: Rows of the bank before; an IVFPQ of them is extended, not trained again.

    Raises:
        InputError: If there is no row, or a file cannot be written.
    """
    images, names = content.images, content.names
    if not images.rows:
        failures = "; ".join(f"{stem}: {why}" for stem, why in [*content.failed.items()][:3])
        raise InputError(f"no image has a region{failures and f' ({failures})'}", where=str(base))
    stores, searched = store_paths(base, names), index_path(base, names)
    for role, path in stores.items():
        write_store(path, content.blocks[role])
    write_index(searched, read_store(stores["keys"]), index, known)
    _write_manifests(base, images)
    written = [*stores.values(), searched, *manifest_paths(base)]
    note = {
        "format": FORMAT, "names": names, "identity": content.identity, "images": len(images.stems),
        "rows": images.rows, "without_regions": list(images.without), "failed": content.failed,
        "index": {"type": index, "neighbours": NEIGHBOURS, "recall": _recall(stores, searched)},
        "files": {
            path.relative_to(base.parent).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in written
        },
        "ovbench": package_version(), "versions": env.versions(), "git": env.git_revision(),
    }  # fmt: skip
    write_json(note_path(base), note)
    return note


def _write_manifests(base: Path, images: BankImages) -> None:
    listing, lines = manifest_paths(base)
    firsts = [0, *accumulate(images.counts)]
    rows = zip(images.stems, firsts, images.counts, strict=False)
    write_bytes(listing, "".join(f"{stem}\t{first}\t{count}\n" for stem, first, count in rows).encode())
    pairs = zip(images.stems, images.counts, strict=True)
    write_bytes(lines, "".join(f"{stem}#{n}\n" for stem, count in pairs for n in range(count)).encode())


def _recall(stores: Mapping[str, Path], index: Path) -> float:
    """Return the recall of an exact search of the vectors in the index, 1.0 for a flat one."""
    vectors = read_index(index)
    if vectors.codes is None:
        return 1.0
    bank = RegionBank(vectors, read_store(stores["main"]), keys=read_store(stores["keys"]))
    return round(measure_recall(bank, NEIGHBOURS) or 0.0, 4)
