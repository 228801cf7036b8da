"""Random numbers that are the same on every platform: integer hashes, and noise built from + - * / and floor only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_MASK = (1 << 64) - 1


class Stream:
    """A splitmix64 stream of scalars, in Python integers."""

    def __init__(self, seed: int):
        self._state = seed & _MASK
        self._state = self.bits()  # the states of neighbouring seeds must not be steps of one stream

    def bits(self) -> int:
        """Return the next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a float in [low, high)."""
        return low + (high - low) * ((self.bits() >> 11) / 9007199254740992.0)

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return low + (self.bits() >> 11) % (high - low + 1)

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Return up to `count` different items in random order."""
        pool = list(items)
        return [pool.pop(self.integer(0, len(pool) - 1)) for _ in range(min(count, len(pool)))]


def hashed(y: np.ndarray, x: np.ndarray, seed: int) -> np.ndarray:
    """Return a random number for every integer position (y, x).

    Args:
        y: Integer rows; `y` and `x` are broadcast.
        x: Integer columns.
        seed: Equal seeds give equal numbers.

    Returns:
        float64, in [0, 1).
    """
    h = (np.asarray(y).astype(np.int64) & 0xFFFFFFFF).astype(np.uint32) * np.uint32(0x85EBCA6B)
    h = h + (np.asarray(x).astype(np.int64) & 0xFFFFFFFF).astype(np.uint32) * np.uint32(0xC2B2AE35)
    h = h + np.uint32(seed & 0xFFFFFFFF)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h.astype(np.float64) / 4294967296.0


def grain(h: int, w: int, stream: Stream) -> np.ndarray:
    """Return white noise, float64 (H, W), in [0, 1)."""
    return hashed(np.arange(h)[:, None], np.arange(w)[None, :], stream.bits())


def smooth(h: int, w: int, cell_y: float, cell_x: float, stream: Stream) -> np.ndarray:
    """Return value noise: random values on a lattice, interpolated smoothly.

    Args:
        h: Height in pixels.
        w: Width in pixels.
        cell_y: Height of a lattice cell in pixels.
        cell_x: Width of a lattice cell in pixels.
        stream: The source of randomness.

    Returns:
        float64 (H, W), in [0, 1).
    """
    gy = np.arange(h) / cell_y + stream.uniform()
    gx = np.arange(w) / cell_x + stream.uniform()
    iy, ix = np.floor(gy).astype(np.int64), np.floor(gx).astype(np.int64)
    fy, fx = gy - iy, gx - ix
    fy, fx = (fy * fy * (3.0 - 2.0 * fy))[:, None], (fx * fx * (3.0 - 2.0 * fx))[None, :]
    lattice = hashed(np.arange(iy[-1] + 2)[:, None], np.arange(ix[-1] + 2)[None, :], stream.bits())
    rows = lattice[iy] * (1.0 - fy) + lattice[iy + 1] * fy
    return rows[:, ix] * (1.0 - fx) + rows[:, ix + 1] * fx


def triangle_wave(t: np.ndarray) -> np.ndarray:
    """Return the wave of period 1 that rises from 0 to 1 and falls back."""
    f = t - np.floor(t)
    return np.where(f < 0.5, 2.0 * f, 2.0 - 2.0 * f)
