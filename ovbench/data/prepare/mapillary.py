"""Convert Mapillary Vistas v1.2 to half size with the classes of Cityscapes, as FLOSS evaluates it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ovbench.data.card import Card
from ovbench.data.decode import stored_pixels
from ovbench.data.labels import read_table
from ovbench.data.prepare.convert import ByValue, raw_values, save_image
from ovbench.data.prepare.work import Step, find, save_label
from ovbench.utils.paths import shipped


def half_steps(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of ``half/``: images by bicubic interpolation as JPEG, labels by nearest neighbour."""
    labels = find("Mapillary Vistas labels", sources, ["validation/v1.2/labels"], "*.png")
    images = labels.parents[1] / "images"
    table = read_table(shipped("datasets", "tables", "mapillary.txt"))
    read = ByValue({value: 255 if number is None else number for value, number in table.items()})
    made = []
    for label in sorted(labels.glob("*.png")):
        made.append(Step(root / "half/val_img" / f"{label.stem}.jpg", _image, (images / f"{label.stem}.jpg",)))
        made.append(Step(root / "half/val_label" / label.name, _label, (read, label)))
    return made


def _image(source: Path, target: Path) -> None:
    save_image(_halved(stored_pixels(source), Image.Resampling.BICUBIC), target)


def _label(read: ByValue, source: Path, target: Path) -> None:
    save_label(read.convert(_halved(raw_values(source), Image.Resampling.NEAREST), source), target)


def _halved(pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
    h, w = pixels.shape[:2]
    return np.array(Image.fromarray(pixels).resize((w // 2, h // 2), how))
