"""The things: a shape's mask and a pattern's paint in the thing's own turned coordinates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import world
from .stream import Stream, triangle_wave

_LIGHT = (240.0, 240.0, 234.0)


def inside(shape: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool[h,w]: the places of a shape of radius 1; a and b are the turned coordinates in radii."""
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


def _light_places(pattern: str, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    """bool[h,w]: where the pattern shows its light colour; y and x are turned coordinates in pixels."""
    if pattern == "striped":
        return triangle_wave(x / period) > 0.5
    if pattern == "dotted":
        fy, fx = y / period, x / period
        fy, fx = fy - np.floor(fy) - 0.5, fx - np.floor(fx) - 0.5
        return fy * fy + fx * fx <= 0.105
    return (triangle_wave(y / period) > 0.5) != (triangle_wave(x / period) > 0.5)  # checkered


class Painted(NamedTuple):
    """A thing in its box: mask bool[m,n], colours f64[m,n,3], and where the box lies."""

    mask: np.ndarray
    colours: np.ndarray
    top: int
    left: int


def paint(h: int, w: int, number: int, radius: float, u: float, stream: Stream) -> Painted:
    """A thing somewhere on an h x w canvas, turned at random; its pattern is drawn to the unit `u` (pixels)."""
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
        places = _light_places(pattern, y + phase, x + phase, period)
        out = np.where(places[..., None], light, out)
    return Painted(mask, out * (1.08 - 0.22 * (a * a + b * b))[..., None], top, left)
