"""Convert an official download to the files that a card reads, with one module per source archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ovbench.data.card import Card
from ovbench.data.dataset import refuse_gaps
from ovbench.data.find import find
from ovbench.data.prepare.unpack import archives_in, unpack
from ovbench.data.prepare.work import Step, link_all, run_steps
from ovbench.utils.errors import UsageError
from ovbench.utils.registry import Registry

# A converter takes the card, the folders to search and the folder of the dataset. It returns the steps, or raises
# InputError if labels or images are not found.
CONVERTERS = Registry(
    "converter",
    {
        "ade_full": "ovbench.data.prepare.ade_full:steps",
        "cityscapes": "ovbench.data.prepare.cityscapes:steps",
        "coco_object": "ovbench.data.prepare.coco:object_steps",
        "coco_stuff": "ovbench.data.prepare.coco:stuff_steps",
        "mapillary_half": "ovbench.data.prepare.mapillary:half_steps",
        "mess": "ovbench.data.prepare.mess:steps",
        "pascal_context": "ovbench.data.prepare.pascal_context:steps_60",
        "pascal_context_459": "ovbench.data.prepare.pascal_context:steps_459",
        "remote_sensing": "ovbench.data.prepare.remote_sensing:steps",
    },
)


class PreparedDataset(NamedTuple):
    """A prepared dataset and the numbers of files that were written or existed before."""

    dataset: str
    root: Path
    written: int
    already_there: int


def prepare(
    card: Card,
    source: Path,
    root: Path | None = None,
    *,
    workers: int = 1,
    image_format: str | None = None,
    begin: Callable[[int], None] = lambda steps: None,
    advance: Callable[[int], None] = lambda done: None,
) -> PreparedDataset:
    """Convert a download; files that exist are skipped, so a second call does nothing.

    Images are hard-linked if the file system can.

    Args:
        card: The card of the dataset.
        source: The download, unpacked or as archives, or the folder above it.
        root: A folder of the card below a data root; by default beside the download.
        workers: Number of processes.
        image_format: "jpg" or "png", for ade847 only.
        begin: Called with the number of files, or with 0 before archives are unpacked.
        advance: Called with the number of files that are done.

    Returns:
        The folder and the numbers of files.

    Raises:
        InputError: With the file that cannot be converted.
        UsageError: If the source is not a folder, or the dataset needs no preparation.
    """
    if not source.is_dir():
        raise UsageError(f'the source "{source}" is not a folder', fix="check the path")
    if image_format is not None and card.prepare != "ade_full":
        raise UsageError(f"{card.name} does not convert its images", where="--image-format")
    if card.generator:
        raise UsageError(f"{card.name} is generated on first use and needs no preparation")
    own = unpacked_root(card, source)
    archived = archives_in(card, source, root or target_root(card, source))
    if root is None:
        root = target_root(card, source) if archived else own
    if archived:
        begin(0)
    unpacked = sum(unpack(archive, advance) for archive in archived)
    options = {} if image_format is None else {"image_format": image_format}
    convert = CONVERTERS.load(card.prepare) if card.prepare else as_published
    steps = convert(card, (own, source, root), root, **options)
    begin(len(steps))
    done = run_steps(steps, workers=workers, advance=advance)
    return PreparedDataset(card.name, root, done.written + unpacked, done.already_there)


def as_published(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps for a dataset that needs no conversion: its files are linked into the folder.

    Args:
        card: The card of the dataset.
        sources: The folders to search.
        root: The folder of the dataset.

    Returns:
        The steps; none if the files are there.
    """
    found = find(card, dict.fromkeys(sources))
    refuse_gaps(card, found)
    if found.root == root:
        return []
    files = [path for item in found.items for path in (item.image_path, item.label_path)]
    if found.layout.ids not in ("", "images", "labels"):
        files.append(found.root / found.layout.ids)
    return link_all([(path, root / path.relative_to(found.root)) for path in files])


def unpacked_root(card: Card, source: Path) -> Path:
    """Return the folder of a dataset in a download.

    Args:
        card: The card of the dataset.
        source: The download.

    Returns:
        One of the card's usual folders below the source, otherwise the source.
    """
    for below in card.roots:
        if (source / below).is_dir() and below != ".":
            return source / below
    return source


def target_root(card: Card, data_root: Path) -> Path:
    """Return the folder of a dataset below a data root.

    Args:
        card: The card of the dataset.
        data_root: The data root; it may be such a folder itself (``.../VOC2010``).

    Returns:
        The card's folder that exists, otherwise the first of them.
    """
    names = [below for below in card.roots if below != "."]
    for below in names:
        if (data_root / below).is_dir():
            return data_root / below
    if data_root.name in {Path(below).name for below in names}:
        return data_root
    return data_root / names[0]
