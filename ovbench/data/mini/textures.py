"""Paint the twelve materials.

A painter takes the size, a unit of length in pixels and a stream of random numbers; it returns float64 (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .stream import Stream, grain, hashed, smooth, triangle_wave

Colour = tuple[float, float, float]
Painter = Callable[[int, int, float, Stream], np.ndarray]


def mix(low: Colour, high: Colour, t: np.ndarray) -> np.ndarray:
    """Return colours between two colours.

    Args:
        low: RGB at t = 0.
        high: RGB at t = 1.
        t: float64 (H, W), clipped to 0..1.

    Returns:
        float64 (H, W, 3).
    """
    t = np.minimum(np.maximum(t, 0.0), 1.0)[..., None]
    return np.array(low, np.float64) * (1.0 - t) + np.array(high, np.float64) * t


def _vary(stream: Stream, colour: Colour, amount: float = 15.0) -> Colour:
    shift = stream.uniform(-amount, amount)
    return tuple(c + shift + stream.uniform(-amount, amount) / 2.0 for c in colour)  # type: ignore[return-value]


def _cells(h: int, w: int, size: float, stream: Stream) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distances to the nearest two centres of jittered cells (in cells), and a random number per cell."""
    gy, gx = np.broadcast_arrays((np.arange(h) / size)[:, None], (np.arange(w) / size)[None, :])
    iy, ix = np.floor(gy).astype(np.int64), np.floor(gx).astype(np.int64)
    seeds = [stream.bits() for _ in range(3)]
    rows, cols = np.arange(-1, iy.max() + 2)[:, None], np.arange(-1, ix.max() + 2)[None, :]
    centre_y, centre_x, number = (hashed(rows, cols, s) for s in seeds)
    first, second = np.full((h, w), 1e9), np.full((h, w), 1e9)
    name = np.zeros((h, w))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            jy, jx = iy + dy + 1, ix + dx + 1
            y = centre_y[jy, jx] * 0.8 + (iy + dy) - gy
            x = centre_x[jy, jx] * 0.8 + (ix + dx) - gx
            d = y * y + x * x
            nearer = d < first
            second = np.minimum(np.where(nearer, first, d), second)
            name = np.where(nearer, number[jy, jx], name)
            first = np.where(nearer, d, first)
    return np.sqrt(first), np.sqrt(second), name


def sky(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint a sky that is lighter below, with clouds."""
    height = np.broadcast_to((np.arange(h) / h)[:, None], (h, w))
    base = mix(_vary(s, (70, 130, 215)), _vary(s, (165, 205, 240)), height)
    n = 0.65 * smooth(h, w, 30 * u, 55 * u, s) + 0.35 * smooth(h, w, 11 * u, 20 * u, s)
    cloud = (np.minimum(np.maximum((n - 0.5) * 4.0, 0.0), 1.0) * 0.85)[..., None]
    return base * (1.0 - cloud) + np.array((246.0, 247.0, 250.0)) * cloud


def grass(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint grass: upright blades in lighter and darker areas."""
    t = 0.6 * smooth(h, w, 9 * u, 1.7 * u, s) + 0.4 * smooth(h, w, 4 * u, 1.4 * u, s)
    patch = smooth(h, w, 40 * u, 40 * u, s)
    return mix(_vary(s, (38, 92, 28)), _vary(s, (125, 185, 72)), (t - 0.5) * 1.5 + 0.35 + 0.3 * patch)


def water(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint water with horizontal waves."""
    y = np.arange(h)[:, None] / (8.0 * u)
    wave = triangle_wave(y + 1.6 * smooth(h, w, 9 * u, 24 * u, s))
    out = mix(_vary(s, (22, 88, 128)), _vary(s, (84, 160, 185)), wave * 0.8 + 0.2 * smooth(h, w, 30 * u, 30 * u, s))
    return out + (np.where(wave > 0.9, 28.0, 0.0))[..., None]


def sand(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint sand with ripples."""
    x = (np.arange(w)[None, :] + np.arange(h)[:, None] * s.uniform(-0.5, 0.5)) / (16.0 * u)
    ripple = triangle_wave(x + smooth(h, w, 25 * u, 25 * u, s))
    t = 0.35 * ripple + 0.4 * grain(h, w, s) + 0.25 * smooth(h, w, 30 * u, 30 * u, s)
    return mix(_vary(s, (188, 158, 104)), _vary(s, (232, 208, 154)), t)


def snow(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint snow with sparkling grains."""
    t = 0.7 * smooth(h, w, 20 * u, 26 * u, s) + 0.3 * smooth(h, w, 7 * u, 9 * u, s)
    out = mix(_vary(s, (203, 216, 236), 6), _vary(s, (246, 248, 252), 4), t)
    return out + (np.where(grain(h, w, s) > 0.985, 25.0, 0.0))[..., None]


def gravel(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint gravel: stones of several tones."""
    first, second, name = _cells(h, w, 9.5 * u, s)
    edge = np.minimum((second - first) * 4.0, 1.0)
    return mix(_vary(s, (52, 50, 50)), _vary(s, (205, 200, 192)), (0.25 + 0.75 * name) * (0.25 + 0.75 * edge))


def road(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint asphalt with light grains."""
    n = grain(h, w, s)
    t = 0.45 * n + 0.55 * smooth(h, w, 35 * u, 35 * u, s)
    return mix(_vary(s, (52, 52, 57)), _vary(s, (104, 104, 108)), t) + (np.where(n > 0.97, 45.0, 0.0))[..., None]


def _rows_of_blocks(
    h: int, w: int, height: float, width: float, shift: float, s: Stream
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the nearest joint of blocks in rows (pixels), and a random number per block."""
    gy = np.arange(h)[:, None] / height + s.uniform()
    row = np.floor(gy)
    gx = np.arange(w)[None, :] / width + s.uniform() + row * shift
    column = np.floor(gx)
    fy, fx = (gy - row) * height, (gx - column) * width
    joint = np.minimum(np.minimum(fy, height - fy), np.minimum(fx, width - fx))
    return joint, hashed(row, column, s.bits())


def brick_wall(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint bricks in rows, shifted by half a brick."""
    joint, name = _rows_of_blocks(h, w, 9 * u, 20 * u, 0.5, s)
    brick = mix(_vary(s, (132, 52, 38)), _vary(s, (186, 92, 68)), 0.7 * name + 0.3 * grain(h, w, s))
    return np.where((joint < 0.9 * u)[..., None], np.array(_vary(s, (196, 186, 174))), brick)


def wood(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint planks with fibres, along or across."""
    across = s.integer(0, 1) == 1
    hh, ww = (w, h) if across else (h, w)
    joint, name = _rows_of_blocks(hh, ww, 19 * u, 160 * u, 0.37, s)
    fibre = 0.55 * smooth(hh, ww, 2.0 * u, 45 * u, s) + 0.25 * smooth(hh, ww, 5 * u, 60 * u, s) + 0.2 * name
    out = mix(_vary(s, (122, 76, 38)), _vary(s, (202, 146, 90)), (fibre - 0.5) * 1.3 + 0.5)
    out = np.where((joint < 0.7 * u)[..., None], out * 0.45, out)
    return out.transpose(1, 0, 2) if across else out


def tiles(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint square tiles with light joints."""
    joint, name = _rows_of_blocks(h, w, 15 * u, 15 * u, 0.0, s)
    tile = mix(_vary(s, (128, 176, 176)), _vary(s, (166, 206, 204)), 0.6 * name + 0.4 * smooth(h, w, 30 * u, 30 * u, s))
    return np.where((joint < 0.95 * u)[..., None], np.array(_vary(s, (238, 236, 228), 5)), tile)


def soil(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint soil with clods."""
    t = 0.5 * smooth(h, w, 6 * u, 7 * u, s) + 0.3 * smooth(h, w, 2.5 * u, 2.5 * u, s) + 0.2 * grain(h, w, s)
    return mix(_vary(s, (42, 26, 16)), _vary(s, (136, 96, 64)), (t - 0.5) * 1.8 + 0.5)


def hedge(h: int, w: int, u: float, s: Stream) -> np.ndarray:
    """Paint a hedge of round leaves."""
    first, _, name = _cells(h, w, 8 * u, s)
    light = (1.0 - np.minimum(first * 1.35, 1.0)) * (0.45 + 0.55 * name)
    return mix(_vary(s, (10, 36, 20)), _vary(s, (78, 140, 70)), light)


PAINTERS: dict[str, Painter] = {
    "sky": sky,
    "grass": grass,
    "water": water,
    "sand": sand,
    "snow": snow,
    "gravel": gravel,
    "road": road,
    "brick wall": brick_wall,
    "wood": wood,
    "tiles": tiles,
    "soil": soil,
    "hedge": hedge,
}
