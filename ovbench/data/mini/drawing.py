"""Drawings: materials in bands or patches, things painted over them, then light and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import world
from .stream import Stream, grain, smooth
from .textures import PAINTERS
from .things import paint

_VALIDATION_SEED = 20_000_000
_TRAINING_SEED = 500_000_000


class Drawing(NamedTuple):
    """A generated image.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        entities: uint8 (H, W); 0..11 are materials, 12..203 things.
        regions: uint8 (H, W), one number per material (0..3) and per thing (8 and above).
    """

    image: np.ndarray
    entities: np.ndarray
    regions: np.ndarray


def _layout(h: int, w: int, count: int, stream: Stream) -> np.ndarray:
    """Return which of `count` materials covers each pixel, int64 (H, W): bands or patches with uneven borders."""
    kind = stream.integer(0, 3)
    wobble = stream.uniform(0.02, 0.12)
    y = np.arange(h)[:, None] / h + wobble * (smooth(h, w, h / 4, w / 4, stream) - 0.5) * 2.0
    x = np.arange(w)[None, :] / w + wobble * (smooth(h, w, h / 4, w / 4, stream) - 0.5) * 2.0
    if kind < 3:
        along = x if kind == 2 else y
        edges = [(i + stream.uniform(0.7, 1.3)) / count for i in range(count - 1)]
        return sum(((along > e).astype(np.int64) for e in edges), np.zeros((h, w), np.int64))
    best, owner = np.full((h, w), 1e9), np.zeros((h, w), np.int64)
    for i in range(count):
        dy, dx = y - stream.uniform(), x - stream.uniform()
        d = dy * dy + dx * dx
        owner = np.where(d < best, i, owner)
        best = np.minimum(d, best)
    return owner


def _lay_materials(h: int, w: int, u: float, stream: Stream) -> Drawing:
    """Draw the ground of two to four materials; a sky comes first (at the top or left)."""
    chosen = sorted(stream.sample(range(len(world.STUFF)), stream.choice((2, 2, 3, 3, 4))), key=lambda m: m != 0)
    owner = _layout(h, w, len(chosen), stream)
    image = np.zeros((h, w, 3))
    entities = np.zeros((h, w), np.uint8)
    for i, material in enumerate(chosen):
        here = owner == i
        rows, columns = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
        if not len(rows):
            continue
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        height, width = int(rows[-1] + 1 - rows[0]), int(columns[-1] + 1 - columns[0])
        texture = PAINTERS[world.STUFF_NAMES[material]](height, width, u * stream.uniform(0.75, 1.4), stream)
        image[box] = np.where(here[box][..., None], texture, image[box])
        entities[here] = material
    return Drawing(image, entities, owner.astype(np.uint8))


def _light(h: int, w: int, stream: Stream) -> np.ndarray:
    """Return the factor of the light, float64 (H, W, 3): overall, a slope, broad shadows and a slight tint."""
    slope_y, slope_x = stream.uniform(-0.55, 0.55), stream.uniform(-0.55, 0.55)
    factor = 1.0 + slope_y * ((np.arange(h) / h) - 0.5)[:, None] + slope_x * ((np.arange(w) / w) - 0.5)[None, :]
    factor = factor * stream.uniform(0.6, 1.2)
    if stream.integer(0, 2) == 0:
        shadow = smooth(h, w, h / 2.5, w / 2.5, stream) * 3.0 - 1.2
        factor = factor * (1.0 - 0.45 * np.minimum(np.maximum(shadow, 0.0), 1.0))
    tint = np.array([stream.uniform(0.9, 1.1) for _ in range(3)])
    return factor[..., None] * tint


def _soften(image: np.ndarray) -> np.ndarray:
    """Blur with the mean of 3 x 3 pixels; the border pixels stay."""
    out = image.copy()
    out[1:-1] = (image[:-2] + image[1:-1] + image[2:]) / 3.0
    rows = out.copy()
    out[:, 1:-1] = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3.0
    return out


def draw(stream: Stream, things: Sequence[int]) -> Drawing:
    """Draw an image with two to five things.

    Args:
        stream: The source of randomness.
        things: Entity numbers to choose from.

    Returns:
        The drawing; each side has 200 to 400 pixels.
    """
    h, w = stream.integer(200, 400), stream.integer(200, 400)
    u = min(h, w) / 224.0
    image, entities, regions = _lay_materials(h, w, u, stream)
    for i, number in enumerate(stream.sample(things, stream.choice((2, 3, 3, 4, 4, 5)))):
        radius, pattern_unit = u * stream.uniform(17.0, 46.0), u * stream.uniform(0.8, 1.35)
        mask, colours, top, left = paint(h, w, number, radius, pattern_unit, stream)
        box = (slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]))
        image[box] = np.where(mask[..., None], colours, image[box])
        entities[box] = np.where(mask, np.uint8(number), entities[box])
        regions[box] = np.where(mask, np.uint8(i + 8), regions[box])
    image = image * _light(h, w, stream)
    for _ in range(stream.choice((0, 0, 0, 1, 2))):
        image = _soften(image)
    level = stream.choice((6.0, 12.0, 24.0, 40.0))
    noise = (grain(h, w, stream) + grain(h, w, stream) - 1.0)[..., None] * level
    image = np.floor(np.minimum(np.maximum(image + noise + 0.5, 0.0), 255.0)).astype(np.uint8)
    return Drawing(image, entities, regions)


def validation_label(drawing: Drawing) -> np.ndarray:
    """Return the label of a drawing of the validation split.

    Args:
        drawing: A drawing of validation things.

    Returns:
        uint8 (H, W): materials are 0..11, things 12..27; 255 on a rim of one pixel around every thing.
    """
    table = np.full(256, world.IGNORE, np.uint8)
    table[: len(world.STUFF)] = np.arange(len(world.STUFF))
    for i, number in enumerate(world.VALIDATION_THINGS):
        table[number] = len(world.STUFF) + i
    label = table[drawing.entities]
    r = drawing.regions
    rim = np.zeros(r.shape, bool)
    rim[1:] |= (r[1:] != r[:-1]) & (np.maximum(r[1:], r[:-1]) >= 8)
    rim[:, 1:] |= (r[:, 1:] != r[:, :-1]) & (np.maximum(r[:, 1:], r[:, :-1]) >= 8)
    label[rim] = world.IGNORE
    return label


def validation_drawing(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one validation image, the same bytes on every platform.

    Args:
        index: Number of the image, from 0.

    Returns:
        The image, uint8 (H, W, 3), RGB, and its label, uint8 (H, W), see `validation_label`.
    """
    drawing = draw(Stream(_VALIDATION_SEED + index), world.VALIDATION_THINGS)
    return drawing.image, validation_label(drawing)


def training_drawing(seed: int) -> Drawing:
    """Draw a training image: all things except the held-out ones.

    Args:
        seed: Number of the drawing; its random stream differs from every validation image's.
    """
    return draw(Stream(_TRAINING_SEED + seed), world.TRAINING_THINGS)
