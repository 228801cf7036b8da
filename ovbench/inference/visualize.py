"""Draw label maps beside the image, the ground truth and the errors, with a legend."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovbench.data.dataset import Sample
from ovbench.utils.files import write_bytes

GOLDEN = 0.618033988749895  # steps by the golden ratio give evenly spread hues for any number of classes
DISTINCT = (
    "e6194b", "3cb44b", "ffe119", "4363d8", "f58231", "911eb4", "42d4f4", "f032e6", "bfef45", "469990", "9a6324",
    "dcbeff", "800000", "aaffc3", "808000", "fabed4", "000075", "ffd8b1", "1e5631", "a9866c",
)  # fmt: skip
BLEND = 0.65  # opacity of a label over the image
RIGHT, WRONG, UNSCORED = (46, 160, 67), (218, 54, 51), (160, 160, 160)
GAP, LINE, FONT_SIZE = 8, 20, 14
PANEL_WIDTH = 360


def palette(classes: int) -> np.ndarray:
    """Return one colour per class, uint8 (C, 3): 20 that are easy to tell apart, then evenly spread hues."""
    shades = ((0.95, 0.75), (0.75, 0.95), (0.55, 0.60), (0.85, 0.50))  # saturation, value
    first = [tuple(bytes.fromhex(text)) for text in DISTINCT[:classes]]
    more = [colorsys.hsv_to_rgb((0.08 + i * GOLDEN) % 1, *shades[i % 4]) for i in range(len(DISTINCT), classes)]
    return np.vstack([np.array(first).reshape(-1, 3), np.array(more).reshape(-1, 3) * 255]).round().astype(np.uint8)


def paint(image: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Blend an image with the colours of its labels; pixels without a class stay unchanged.

    Args:
        image: uint8 (H, W, 3), RGB.
        labels: (H, W), class indices.
        classes: Number of classes.

    Returns:
        uint8 (H, W, 3).
    """
    known = labels < classes
    colours = palette(classes)[np.where(known, labels, 0)]
    mixed = image * (1 - BLEND) + colours * BLEND
    return np.where(known[..., None], mixed, image).round().astype(np.uint8)


def errors(image: np.ndarray, predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Colour an image: green for correct pixels, red for wrong ones, grey for pixels that are not scored.

    Args:
        image: uint8 (H, W, 3), RGB.
        predicted: (H, W), class indices.
        truth: (H, W), class indices.
        classes: Number of classes; larger labels are not scored.

    Returns:
        uint8 (H, W, 3).
    """
    grey = image.mean(2, keepdims=True).repeat(3, 2)
    unscored, right = truth >= classes, predicted == truth
    colours = np.where(unscored[..., None], UNSCORED, np.where(right[..., None], RIGHT, WRONG))
    return (grey * 0.4 + colours * 0.6).round().astype(np.uint8)


def comparison(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Draw image, truth, prediction and errors in one row, with a legend of the classes that occur.

    Args:
        image: uint8 (H, W, 3), RGB.
        truth: (H, W), class indices.
        predicted: (H, W), class indices.
        names: Class names.
    """
    count = len(names)
    panels = [
        ("image", image),
        ("truth", paint(image, truth, count)),
        ("prediction", paint(image, predicted, count)),
        ("errors", errors(image, predicted, truth, count)),
    ]
    return _sheet(panels, sorted(({*np.unique(truth)} | {*np.unique(predicted)}) & {*range(count)}), names)


def _sheet(panels: list[tuple[str, np.ndarray]], present: list[int], names: Sequence[str]) -> Image.Image:
    font = ImageFont.load_default(size=FONT_SIZE)
    h, w = panels[0][1].shape[:2]
    height = max(1, round(h * PANEL_WIDTH / w))
    width = len(panels) * (PANEL_WIDTH + GAP) + GAP
    entries = [(names[i], tuple(int(v) for v in palette(len(names))[i])) for i in present]
    spots, legend_height = _flow([name for name, _ in entries], width, font)
    sheet = Image.new("RGB", (width, LINE + height + GAP + legend_height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, pixels) in enumerate(panels):
        x = GAP + number * (PANEL_WIDTH + GAP)
        draw.text((x, 2), title, fill="black", font=font)
        sheet.paste(Image.fromarray(pixels).resize((PANEL_WIDTH, height), Image.Resampling.BILINEAR), (x, LINE))
    top = LINE + height + GAP
    for (name, colour), (x, y) in zip(entries, spots, strict=True):
        draw.rectangle((x, top + y + 3, x + 12, top + y + 15), fill=colour, outline="black")
        draw.text((x + 17, top + y), name, fill="black", font=font)
    return sheet


def _flow(names: Sequence[str], width: int, font: ImageFont.FreeTypeFont) -> tuple[list[tuple[int, int]], int]:
    """Return the position of each legend entry, left to right and wrapped, and the height of the legend."""
    x, y, spots = GAP, 0, []
    for name in names:
        needed = 17 + round(font.getlength(name)) + 16
        if x + needed > width and x > GAP:
            x, y = GAP, y + LINE
        spots.append((x, y))
        x += needed
    return spots, y + LINE


class Pictures:
    """Drawings of the first images of a dataset, one PNG file each.

    Args:
        folder: Folder of the files.
        names: Class names.
        count: Number of images to draw.
    """

    def __init__(self, folder: Path, names: Sequence[str], count: int):
        self.folder, self.names, self.count = folder, names, count

    def _path(self, image_id: str) -> Path:
        return self.folder / f"{image_id.replace('/', '_')}.png"

    def is_missing(self, number: int, image_id: str) -> bool:
        """Return whether the drawing of this image is missing."""
        return number < self.count and not self._path(image_id).exists()

    def save(self, number: int, sample: Sample, predicted: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Write the drawing of an image, if it is one of the first images.

        Args:
            number: Number of the image in the split.
            sample: The image with its truth.
            predicted: uint16 (H, W).
            confidence: Not drawn.
        """
        if number < self.count:
            save_png(self._path(sample.id), comparison(sample.image, sample.label, predicted, self.names))


def save_png(path: Path, picture: Image.Image) -> None:
    """Write an image as PNG, atomically."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
