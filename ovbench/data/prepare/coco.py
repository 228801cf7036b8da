"""Convert COCO-Stuff 164k pixel maps (category id - 1) to the 171 classes of COCO-Stuff and 81 of COCO-Object."""

from __future__ import annotations

from pathlib import Path

from ovbench.data.card import Card
from ovbench.data.labels import label_map
from ovbench.data.prepare.work import Step, convert, find, link_all

LABELS = [
    "stuffthingmaps/val2017",
    "stuffthingmaps_trainval2017/val2017",
    "annotations/val2017",
    "val2017",
    "annotations/stuffthingmaps/val2017",
]
IMAGES = ["images/val2017", "val2017"]
VALUES, ARCHIVE = "a COCO-Stuff value", "stuffthingmaps_trainval2017.zip"
CONVERTED = "TrainIds"  # in the names of converted files, which are beside the original ones


def stuff_steps(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of ``_labelTrainIds.png``: 171 classes, 255 is ignored."""
    return _steps(card, sources, root, "_labelTrainIds.png")


def object_steps(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of ``_instanceTrainIds.png``: 80 things as 1..80; all other pixels are background 0."""
    return _steps(card, sources, root, "_instanceTrainIds.png")


def _steps(card: Card, sources: tuple[Path, ...], root: Path, suffix: str) -> list[Step]:
    labels = find("COCO-Stuff pixel maps (PNG)", sources, LABELS, "*.png", without=CONVERTED)
    images = find("COCO val2017 images (JPEG)", sources, IMAGES, "*.jpg")
    table = label_map(card.encoding("raw"), len(card.classes))
    raw = sorted(p for p in labels.iterdir() if p.suffix == ".png" and CONVERTED not in p.name)
    pairs = [(p, root / "images/val2017" / p.name) for p in sorted(images.glob("*.jpg"))]
    folder = root / "annotations/val2017"
    return link_all(pairs) + [Step(folder / f"{p.stem}{suffix}", convert, (p, table, VALUES, ARCHIVE)) for p in raw]
