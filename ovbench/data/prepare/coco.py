"""Convert COCO-Stuff 164k pixel maps (category id - 1) to the 171 classes of COCO-Stuff and 81 of COCO-Object."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ovbench.data.card import Card
from ovbench.data.decode import read_raw_label
from ovbench.data.labels import LabelMap, label_map
from ovbench.data.prepare.work import Step, find, link_all, nothing_found, save_label
from ovbench.utils.errors import InputError

LABELS = [
    "stuffthingmaps/val2017",
    "stuffthingmaps_trainval2017/val2017",
    "annotations/val2017",
    "val2017",
    "annotations/stuffthingmaps/val2017",
]
IMAGES = ["images/val2017", "val2017"]
CONVERTED = "TrainIds"  # in the names of converted files, which are beside the original ones


def stuff_steps(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of ``_labelTrainIds.png``: 171 classes, 255 is ignored."""
    return _steps(card, sources, root, "_labelTrainIds.png")


def object_steps(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of ``_instanceTrainIds.png``: 80 things as 1..80; all other pixels are background 0."""
    return _steps(card, sources, root, "_instanceTrainIds.png")


def _steps(card: Card, sources: tuple[Path, ...], root: Path, suffix: str) -> list[Step]:
    labels = find(sources, LABELS, "*.png", without=CONVERTED)
    if labels is None:
        raise nothing_found("COCO-Stuff pixel maps (PNG)", sources, LABELS)
    images = find(sources, IMAGES, "*.jpg")
    if images is None:
        raise nothing_found("COCO val2017 images (JPEG)", sources, IMAGES)
    table = label_map(card.encoding("raw"), len(card.classes))
    raw = sorted(p for p in labels.iterdir() if p.suffix == ".png" and CONVERTED not in p.name)
    pairs = [(p, root / "images/val2017" / p.name) for p in sorted(images.glob("*.jpg"))]
    folder = root / "annotations/val2017"
    return link_all(pairs) + [Step(folder / f"{p.stem}{suffix}", convert, (p, table)) for p in raw]


def convert(raw_path: Path, table: LabelMap, target: Path) -> None:
    """Convert one pixel map.

    Args:
        raw_path: The pixel map.
        table: From its values to classes.
        target: The file to write.

    Raises:
        InputError: If a value is not a category of COCO-Stuff.
    """
    raw = read_raw_label(raw_path)
    if not table.admits(raw).all():
        value = int(raw[~table.admits(raw)][0])
        raise InputError(
            f"{value} is not a COCO-Stuff value",
            where=str(raw_path),
            fix="is this file from stuffthingmaps_trainval2017.zip?",
        )
    save_label(table.table[raw].astype(np.uint8), target)  # 65535, ignored, becomes 255
