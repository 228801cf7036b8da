"""Paint the classes of an image over it at full size, with outlines and a legend."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovbench.inference.visualize import palette
from ovbench.utils.text import printable

BAND = 1 << 22  # pixels that are painted at once
OPACITY = 0.55
SMALLEST_FONT, FONT_FRACTION = 14, 0.018  # of the longer side of the image
NARROWEST = 480  # pixels; a smaller image has white space beside it
GREY = (128, 128, 128)
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf")
ABSENT = "\U0010ffff"  # a character of no font


class LegendEntry(NamedTuple):
    """A class with its index, its colour and its fraction of the pixels."""

    number: int
    name: str
    colour: tuple[int, int, int]
    fraction: float

    @property
    def text(self) -> str:
        """Return the name and the percentage."""
        return f"{printable(self.name)} {100 * self.fraction:.1f} %"


def overlay(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], *, opacity: float = OPACITY, outline: bool = True,
    unpainted: int | None = None,
) -> Image.Image:  # fmt: skip
    """Paint the classes of an image over it, with a legend below.

    Args:
        image: uint8 (H, W, 3), RGB.
        labels: (H, W), class indices.
        names: Class names.
        opacity: Opacity of the colours, 0 to 1.
        outline: Whether to draw the border of every class in its full colour beside a white line.
        unpainted: Index of a class whose pixels keep the colours of the image, None if there is none.

    Returns:
        The picture; the image is at its upper left corner, at its own size.
    """
    colours = np.vstack([palette(len(names)), [GREY]]).astype(np.uint8)
    if unpainted is not None:
        colours[unpainted] = GREY
    counts = np.bincount(labels.ravel(), minlength=len(names))[: len(names)]
    order = sorted(np.flatnonzero(counts), key=lambda c: (-counts[c], c))
    entries = [LegendEntry(int(c), names[c], tuple(map(int, colours[c])), counts[c] / labels.size) for c in order]
    height, width = labels.shape
    legend = _legend(entries, max(width, NARROWEST), max(SMALLEST_FONT, round(FONT_FRACTION * max(height, width))))
    sheet = Image.new("RGB", (legend.width, height + legend.height), "white")
    for rows, painted in _painted(image, labels, colours, opacity, outline, unpainted):
        sheet.paste(Image.fromarray(painted), (0, rows.start))
    sheet.paste(legend, (0, height))
    return sheet


def _painted(
    image: np.ndarray, labels: np.ndarray, colours: np.ndarray, opacity: float, outline: bool, unpainted: int | None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield bands of rows, uint8 (h, W, 3); large images are never copied as floats."""
    height, width = labels.shape
    line = max(1, round(min(height, width) / 600))  # half the width of an outline
    step = max(BAND // width, 1)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        margin = slice(max(top - 2 * line, 0), min(rows.stop + 2 * line, height))
        inner = slice(rows.start - margin.start, rows.stop - margin.start)
        found = np.minimum(labels[margin], len(colours) - 1)
        colour = colours[found[inner]]
        painted = cv2.addWeighted(image[rows], 1 - opacity, colour, opacity, 0)
        if unpainted is not None:
            plain = found[inner] == unpainted
            painted[plain] = image[rows][plain]
        if outline:
            border = _border(found)
            near, wide = (cv2.dilate(border, np.ones((n, n), np.uint8))[inner] > 0 for n in (line + 1, 2 * line + 1))
            painted[wide] = colour[wide]
            painted[near] = 255
        yield rows, painted


def _border(labels: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W), 1 where the pixel to the right or below has another label."""
    border = np.zeros(labels.shape, np.uint8)
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    border[:-1] |= labels[:-1] != labels[1:]
    return border


def _legend(entries: Sequence[LegendEntry], width: int, size: int) -> Image.Image:
    """Draw the classes from left to right in rows, with names that are shortened to the width."""
    gap = size // 2
    boxes, x, y = [], gap, gap
    for entry in entries:
        if not _can_draw(_font(size, entry.text), entry.text):
            entry = entry._replace(name=f"class {entry.number}")  # the label map has its name
        font = _font(size, entry.text)
        text = _shortened(entry, font, width - 3 * gap - size)
        needed = size + gap + round(font.getlength(text)) + size
        if x + needed > width and x > gap:
            x, y = gap, y + round(1.6 * size)
        boxes.append((x, y, text, font, entry.colour))
        x += needed
    picture = Image.new("RGB", (width, y + round(1.6 * size) + gap), "white")
    draw = ImageDraw.Draw(picture)
    for x, y, text, font, colour in boxes:
        draw.rectangle((x, y, x + size, y + size), fill=colour, outline="black", width=max(1, size // 14))
        draw.text((x + size + gap, y + size / 2), text, fill="black", font=font, anchor="lm")
    return picture


def _shortened(entry: LegendEntry, font: ImageFont.FreeTypeFont, room: int) -> str:
    name, text = entry.name, entry.text
    while font.getlength(text) > room and len(name) > 1:
        name = name[: max(len(name) * 3 // 4, 1)]
        text = entry._replace(name=f"{name}…").text
    return text


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, or a font of the machine for characters that it lacks."""
    own = ImageFont.load_default(size=size)
    if not _can_draw(own, text) and (found := _wide_font()):
        return ImageFont.truetype(found, size)
    return own


def _can_draw(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Return whether a font has all characters of a text."""
    absent = bytes(font.getmask(ABSENT))
    return not any(bytes(font.getmask(character)) == absent for character in text if not character.isspace())


@functools.cache
def _wide_font() -> str | None:
    folders = [Path(prefix, "share", "fonts") for prefix in (sys.prefix, "/usr", "/usr/local")]
    if (matplotlib := importlib.util.find_spec("matplotlib")) and matplotlib.origin:  # it brings DejaVu Sans
        folders.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts")
    for name in (each for font in FONTS for each in (font, *(str(p) for f in folders for p in f.rglob(font)))):
        try:
            ImageFont.truetype(name, SMALLEST_FONT)
        except OSError:
            continue
        return name
    return None
