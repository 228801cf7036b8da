"""Paint things: the mask of a shape and the colours of a pattern, in turned coordinates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import world
from .stream import Stream, triangle_wave

_LIGHT = (240.0, 240.0, 234.0)


def inside(shape: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mask of a shape of radius 1.

    Args:
        shape: Name of the shape.
        a: First turned coordinate of each pixel, in radii.
        b: Second turned coordinate of each pixel, in radii.

    Returns:
        bool (H, W).
    """
    if shape == "ball":
        return a * a + b * b <= 1.0
    if shape == "ring":
        d = a * a + b * b
        return (d <= 1.0) & (d >= 0.27)
    a, height = np.abs(a), b
    b = np.abs(b)
    if shape == "box":
        return (a <= 0.95) & (b <= 0.78)
    if shape == "cross":
        return ((a <= 0.37) & (b <= 1.0)) | ((b <= 0.37) & (a <= 1.0))
    if shape == "triangle":
        return (height <= 0.75) & (a * 1.65 <= height + 1.0)
    return a * 1.35 + b <= 1.1  # diamond


def _light_pixels(pattern: str, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    """Return where the pattern shows its light colour, bool (H, W); y and x are turned coordinates in pixels."""
    if pattern == "striped":
        return triangle_wave(x / period) > 0.5
    if pattern == "dotted":
        fy, fx = y / period, x / period
        fy, fx = fy - np.floor(fy) - 0.5, fx - np.floor(fx) - 0.5
        return fy * fy + fx * fx <= 0.105
    return (triangle_wave(y / period) > 0.5) != (triangle_wave(x / period) > 0.5)  # checkered


class Painted(NamedTuple):
    """A thing in its box.

    Attributes:
        mask: bool (h, w), the pixels of the thing.
        colours: float64 (h, w, 3).
        top: First row of the box.
        left: First column of the box.
    """

    mask: np.ndarray
    colours: np.ndarray
    top: int
    left: int


def paint(h: int, w: int, number: int, radius: float, u: float, stream: Stream) -> Painted:
    """Paint a thing at a random position and angle.

    Args:
        h: Height of the canvas in pixels.
        w: Width of the canvas in pixels.
        number: The entity number of the thing.
        radius: Its radius in pixels.
        u: Unit of length of its pattern in pixels.
        stream: The source of randomness.

    Returns:
        The thing in its box, cut at the border of the canvas.
    """
    colour, pattern, shape = world.thing(number)
    cy, cx = stream.uniform(0.0, h), stream.uniform(0.0, w)
    p, q = stream.integer(-8, 8), stream.integer(1, 8)
    length = np.sqrt(float(p * p + q * q))
    cos, sin = q / length, p / length
    top, left = max(int(cy - radius * 1.3), 0), max(int(cx - radius * 1.3), 0)
    bottom, right = min(int(cy + radius * 1.3) + 1, h), min(int(cx + radius * 1.3) + 1, w)
    dy, dx = (np.arange(top, bottom) - cy)[:, None], (np.arange(left, right) - cx)[None, :]
    y, x = dy * cos - dx * sin, dy * sin + dx * cos
    a, b = x / radius, y / radius
    mask = inside(shape, a, b)
    shift = stream.uniform(-15.0, 15.0)
    base = np.array([c + shift + stream.uniform(-15.0, 15.0) for c in world.COLOURS[colour]])
    light = np.array([c - stream.uniform(0.0, 45.0) for c in _LIGHT])
    out = np.broadcast_to(base, (*mask.shape, 3))
    period = stream.uniform(0.85, 1.3) * u * {"plain": 1.0, "striped": 8.5, "dotted": 9.5, "checkered": 11.0}[pattern]
    phase = stream.uniform(0.0, 1.0) * period
    if pattern != "plain":
        light_pixels = _light_pixels(pattern, y + phase, x + phase, period)
        out = np.where(light_pixels[..., None], light, out)
    return Painted(mask, out * (1.08 - 0.22 * (a * a + b * b))[..., None], top, left)
