"""Draw the label of an image from COCO annotations: polygons, run lengths or panoptic segments."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovbench.data.card import Encoding
from ovbench.data.integrity import BROKEN, check_png, reason_of
from ovbench.data.rle import decode_rle
from ovbench.utils.errors import InputError

FINE = 5  # boundaries of polygons are followed in fifths of a pixel, as the COCO API does
FARTHEST = 4  # distance of a polygon's corner from the image, in sizes of the image


def draw_label(data: bytes, encoding: Encoding, path: Path) -> np.ndarray:
    """Draw the label of one image.

    Smaller instances are drawn over larger ones, by their pixels; equal ones in the order of the file. Crowds are
    pixels of their class. Pixels without annotation are the background, or ignored if the card has none.

    Args:
        data: What `ovbench.data.sources.read_source` returns for the image.
        encoding: The encoding with the categories of the classes.
        path: The path of the label, for messages.

    Returns:
        uint16 (H, W), class index or the ignored value of the encoding.

    Raises:
        InputError: If a shape is malformed or its category is of no class.
    """
    line, _, png = data.partition(b"\n")
    found = json.loads(line)
    size = (found["height"], found["width"])
    rest = encoding.void[0] if encoding.background is None else encoding.background
    label = np.full(size, rest, np.uint16)
    if png:
        _draw_segments(label, found["annotations"], png, encoding, path)
        return label
    values = [_value(one["category"], encoding, path) for one in found["annotations"]]
    areas = [np.count_nonzero(_mask(one["shape"], size, path)) for one in found["annotations"]]
    for number in sorted(range(len(areas)), key=lambda i: (-areas[i], i)):  # drawn twice: masks of all are too large
        label[_mask(found["annotations"][number]["shape"], size, path)] = values[number]
    return label


def _value(category: str, encoding: Encoding, path: Path) -> int:
    if category in encoding.categories:
        return encoding.categories.index(category)
    if encoding.ignores_others:
        return encoding.void[0]
    raise InputError(
        f'the category "{category}" of the label "{path}" is of no class',
        fix='add it to the class list, or to "categories" of the card, or write else = "ignore" there',
    )


def _draw_segments(
    label: np.ndarray, segments: Sequence[Mapping[str, Any]], png: bytes, encoding: Encoding, path: Path
) -> None:  # fmt: skip
    check_png(png, path, "label")
    try:
        with Image.open(io.BytesIO(png)) as image:
            if image.mode != "RGB" or image.format != "PNG":
                raise InputError(f'the segments of "{path}" are not an RGB PNG', fix="copy the PNG files again")
            pixels = np.asarray(image).astype(np.int64)
    except BROKEN as error:
        what = f'cannot read the segments of "{path}": {reason_of(error)}'
        raise InputError(what, fix="copy the PNG files again") from None
    if pixels.shape[:2] != label.shape:
        raise InputError(f'the PNG of "{path}" is {pixels.shape[1]}x{pixels.shape[0]}, the annotations say '
                         f"{label.shape[1]}x{label.shape[0]}")  # fmt: skip
    numbers, places = np.unique(pixels[..., 0] | pixels[..., 1] << 8 | pixels[..., 2] << 16, return_inverse=True)
    values = {segment["segment"]: _value(segment["category"], encoding, path) for segment in segments}
    values.setdefault(0, int(label.flat[0]) if label.size else 0)
    missing = [int(number) for number in numbers if int(number) not in values]
    if missing:
        raise InputError(f'the segment {missing[0]} in the PNG of "{path}" is not listed', fix="copy both files again")
    label[...] = np.array([values[int(number)] for number in numbers], np.uint16)[places.reshape(label.shape)]


def _mask(shape: Any, size: tuple[int, int], path: Path) -> np.ndarray:
    """Return bool (H, W): polygons, or run lengths as numbers or as text."""
    if isinstance(shape, dict):
        return decode_rle(shape, where=str(path), size=size)
    try:
        mask = np.zeros(size, bool)
        for polygon in shape:
            mask |= fill_polygon(np.array(polygon, float).reshape(-1, 2), size)
        return mask
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise InputError(f'malformed segmentation in "{path}": {error}', fix="export the annotations again") from None


def fill_polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of a polygon, equal to those of the COCO API.

    The boundary is a chain of points on a grid of fifths of a pixel. Where it passes the centre of a column, the pixels
    below change sides.

    Args:
        corners: float (N, 2), x and y in pixels.
        size: (h, w) of the image.

    Returns:
        bool (H, W).

    Raises:
        ValueError: If there are fewer than 3 corners, or numbers that are not finite or far away.
    """
    h, w = size
    if len(corners) < 3 or not np.isfinite(corners).all() or np.abs(corners).max() > (FARTHEST + 1) * max(h, w):
        raise ValueError("a polygon has at least 3 corners, in or near the image")
    grid = np.trunc(FINE * corners + 0.5).astype(np.int64)
    u, v = (np.concatenate(axis) for axis in zip(*map(_line, grid, np.roll(grid, -1, 0)), strict=True))
    moves = np.flatnonzero(u[1:] != u[:-1]) + 1
    x = (np.minimum(u[moves], u[moves - 1]) + 0.5) / FINE - 0.5  # where the chain passes to another column of the grid
    y = (np.minimum(v[moves], v[moves - 1]) + 0.5) / FINE - 0.5
    at_centre = (np.floor(x) == x) & (x >= 0) & (x <= w - 1)
    columns, rows = x[at_centre].astype(np.int64), np.ceil(np.clip(y[at_centre], 0, h)).astype(np.int64)
    mask = np.zeros(size, bool)
    if len(columns):
        first, count = columns.min(), np.ptp(columns) + 1
        changes = np.bincount((columns - first) * h + rows, minlength=count * h + 1)[: count * h]
        mask[:, first : first + count] = (np.cumsum(changes) % 2 == 1).reshape(count, h).T
    return mask


def _line(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of the grid between two corners, with both; the longer axis has every number once."""
    dx, dy = np.abs(end - start)
    steep, turned = dy > dx, (start[0] > end[0]) if dx >= dy else (start[1] > end[1])
    low, high = (end, start) if turned else (start, end)
    steps = np.arange(max(dx, dy) + 1)
    steps = steps[::-1] if turned else steps
    along, across = (1, 0) if steep else (0, 1)
    slope = (high[across] - low[across]) / max(dx, dy, 1)
    main, other = low[along] + steps, np.trunc(low[across] + slope * steps + 0.5).astype(np.int64)
    return (other, main) if steep else (main, other)
