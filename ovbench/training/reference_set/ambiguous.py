"""Ambiguous labels (supplement B.2): roots such as "scene", found by the size of their groups."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ovbench.utils.errors import UsageError

MODES = ("knee_gated", "knee", "list", "off")
GATE_QUANTILE = 0.75
GATE_MIN_SIZE = 10


def knee_size(sizes: np.ndarray) -> int:
    """Return the group size at the knee of the descending curve of positive sizes.

    The knee is the point farthest below the line between the ends (the first maximum of Kneedle's difference curve).

    Args:
        sizes: Pairs of each root, int (R,).
    """
    s = np.sort(sizes[sizes > 0])[::-1].astype(np.float64)
    if len(s) < 2 or s[0] == s[-1]:
        return int(s[0]) if len(s) else 0
    x = np.arange(len(s)) / (len(s) - 1)
    y = (s - s[-1]) / (s[0] - s[-1])
    return int(s[np.argmax(1 - x - y)])


def beyond_knee(sizes: np.ndarray) -> np.ndarray:
    """Return the roots whose group is larger than the knee, ascending."""
    return np.flatnonzero(sizes > knee_size(sizes))


def gated(
    roots: np.ndarray, sizes: np.ndarray, w: np.ndarray, quantile: float = GATE_QUANTILE, least: int = GATE_MIN_SIZE
) -> np.ndarray:
    """Return the roots whose segments also differ: their spread is above a quantile of all spreads.

    Args:
        roots: Roots beyond the knee.
        sizes: Pairs of each root, int (R,).
        w: Spread of each root, float (R,), NaN without pairs.
        quantile: The quantile, 0 to 1.
        least: Groups with fewer pairs do not count for the quantile.
    """
    counted = w[sizes >= max(least, 1)]
    return roots[w[roots] > np.quantile(counted, quantile)] if len(counted) else roots[:0]


def ambiguous_roots(
    mode: str,
    roots: Sequence[str],
    sizes: np.ndarray,
    w: np.ndarray,
    listed: Collection[str] = (),
    quantile: float = GATE_QUANTILE,
    least: int = GATE_MIN_SIZE,
) -> np.ndarray:
    """Return the roots to drop, ascending.

    Args:
        mode: "knee" (the paper's rule), "knee_gated" (see `gated`), "list" or "off".
        roots: All roots.
        sizes: Pairs of each root, int (R,).
        w: Spread of each root, float (R,).
        listed: Roots to drop with "list".
        quantile: See `gated`.
        least: See `gated`.

    Raises:
        UsageError: If the mode is not known.
    """
    if mode == "off":
        return np.empty(0, np.int64)
    if mode == "list":
        return np.array([number for number, root in enumerate(roots) if root in listed and sizes[number]], np.int64)
    if mode == "knee":
        return beyond_knee(sizes)
    if mode == "knee_gated":
        return gated(beyond_knee(sizes), sizes, w, quantile, least)
    raise UsageError(f'unknown ambiguous-label filter "{mode}"', fix="use " + ", ".join(MODES))
