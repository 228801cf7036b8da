"""From an official download to the files that a card reads; one module per source archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ovbench.data.card import Card
from ovbench.data.dataset import refuse_gaps
from ovbench.data.find import find
from ovbench.data.prepare.unpack import parts_in, unpack
from ovbench.data.prepare.work import Step, place_all, run_steps
from ovbench.utils.errors import UsageError
from ovbench.utils.registry import Registry

CONVERTERS = Registry(
    "converter",
    {
        "ade_full": "ovbench.data.prepare.ade_full:steps",
        "cityscapes": "ovbench.data.prepare.cityscapes:steps",
        "coco_object": "ovbench.data.prepare.coco:object_steps",
        "coco_stuff": "ovbench.data.prepare.coco:stuff_steps",
        "pascal_context": "ovbench.data.prepare.pascal_context:steps_60",
        "pascal_context_459": "ovbench.data.prepare.pascal_context:steps_459",
    },
)


class Prepared(NamedTuple):
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
) -> Prepared:
    """Convert a download; what is there already is not touched, so that a second call does nothing.

    ``source`` is the download, unpacked or as archives, or the folder above it; ``root`` one of the card's own folders
    below a data root, or None for beside the download. Images are hard-linked. ``begin`` is told the number of files
    (0: archives are unpacked), ``advance`` of each that is done. InputError names the file that stopped it.
    """
    if not source.is_dir():
        raise UsageError(f'the source "{source}" is not a folder', fix="check the path")
    if image_format is not None and card.prepare != "ade_full":
        raise UsageError(f"{card.name} keeps its images as they are", where="--image-format")
    if card.generator:
        raise UsageError(f"{card.name} is drawn on first use and needs no preparation")
    own = unpacked_root(card, source)
    archived = parts_in(card, source, root or target_root(card, source))
    if root is None:
        root = target_root(card, source) if archived else own
    if archived:
        begin(0)
    unpacked = sum(unpack(part, advance) for part in archived)
    options = {} if image_format is None else {"image_format": image_format}
    convert = CONVERTERS.load(card.prepare) if card.prepare else as_published
    steps = convert(card, (own, source, root), root, **options)
    begin(len(steps))
    outcome = run_steps(steps, workers=workers, advance=advance)
    return Prepared(card.name, root, outcome.written + unpacked, outcome.already_there)


def as_published(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """For a benchmark that is read as it comes: its split's files, placed below ``root`` where they are elsewhere."""
    found = find(card, dict.fromkeys(sources))
    refuse_gaps(card, found)
    if found.root == root:
        return []
    files = [path for item in found.items for path in (item.image_path, item.label_path)]
    if found.layout.ids not in ("", "images", "labels"):
        files.append(found.root / found.layout.ids)
    return place_all([(path, root / path.relative_to(found.root)) for path in files])


def unpacked_root(card: Card, source: Path) -> Path:
    """The benchmark's own folder in a download: ``source`` or one of the card's usual folders below it."""
    for below in card.roots:
        if (source / below).is_dir() and below != ".":
            return source / below
    return source


def target_root(card: Card, data_root: Path) -> Path:
    """Where below a data root the benchmark belongs: the card's folder that is there, else the first of them.

    A data root that is itself such a folder (``.../VOC2010``) is taken as it is.
    """
    names = [below for below in card.roots if below != "."]
    for below in names:
        if (data_root / below).is_dir():
            return data_root / below
    if data_root.name in {Path(below).name for below in names}:
        return data_root
    return data_root / names[0]
