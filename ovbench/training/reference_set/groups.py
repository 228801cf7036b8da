"""Group-based filtering (section 3.2): among the pairs of a root noun, the dissimilar ones are dropped.

A pair is a segment with a phrase. Pairs are sorted by (segment, phrase), and all functions keep that order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ovbench.methods.reme.vectors import cosines, unit
from ovbench.utils.errors import UsageError

COLUMNS_PER_BLOCK = 128
MODES = ("fixed", "adaptive", "clip", "clip-group", "none")
ROUNDINGS = ("floor", "ceil", "quantile")
RATES = ("half", "clip", "minmax")


class Groups(NamedTuple):
    """Pairs by root: root r has the pairs ``order[start[r] : start[r + 1]]``, ascending."""

    order: np.ndarray
    start: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Number of pairs of each root, int64 (R,)."""
        return np.diff(self.start)

    def each(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the root and the pairs of each group that is not empty."""
        for root in np.flatnonzero(self.sizes):
            yield int(root), self.order[self.start[root] : self.start[root + 1]]


class Cohesion(NamedTuple):
    """How similar the segments of a group are.

    Attributes:
        score: Cosine of each pair's segment and the centre of its group, float32 (P,).
        w: Spread of each group, the mean of 1 - score, float64 (R,); NaN for a root without pairs.
    """

    score: np.ndarray
    w: np.ndarray


def group_pairs(roots: np.ndarray, count: int) -> Groups:
    """Group pairs by their roots, int (P,), 0 to ``count`` - 1."""
    order = np.argsort(roots, kind="stable")
    return Groups(order, np.concatenate([[0], np.bincount(roots, minlength=count).cumsum()]))


def centre(members: np.ndarray) -> np.ndarray:
    """Return the element-wise median of unit vectors, float32 (N, D), scaled to length 1."""
    columns = range(0, members.shape[1], COLUMNS_PER_BLOCK)
    return unit(np.concatenate([np.median(members[:, c : c + COLUMNS_PER_BLOCK], axis=0) for c in columns]))


def cohesion(
    rows: Callable[[np.ndarray], np.ndarray],
    segments: np.ndarray,
    groups: Groups,
    advance: Callable[[int], object] = lambda pairs: None,
) -> Cohesion:
    """Compare every pair with the centre of its group; one group is in memory at a time.

    A segment with two phrases of one root counts twice.

    Args:
        rows: Reads the visual embeddings of segments, float (N, D1).
        segments: Segment of each pair, int64 (P,).
        groups: The pairs of each root.
        advance: Called with the number of finished pairs.
    """
    score, w = np.empty(len(segments), np.float32), np.full(len(groups.sizes), np.nan)
    for root, pairs in groups.each():
        members = unit(rows(segments[pairs]))
        score[pairs] = cosines(members, centre(members)[None])[:, 0]
        w[root] = np.mean(1.0 - score[pairs].astype(np.float64))
        advance(len(pairs))
    return Cohesion(score, w)


def adaptive_rate(w: np.ndarray, form: str = "half") -> np.ndarray:
    """Return the share of each group to drop, 0 to 0.5, larger for a larger spread (supplement C.1).

    Args:
        w: Spread of each group, float (R,).
        form: "half" is 0.5 clip(w, 0, 1), "clip" is min(w, 0.5), "minmax" scales w linearly to 0 to 0.5.

    Raises:
        UsageError: If the form is not known.
    """
    if form == "half":
        return 0.5 * np.clip(w, 0, 1)
    if form == "clip":
        return np.clip(w, 0, 0.5)
    if form == "minmax":
        low, high = (np.nanmin(w), np.nanmax(w)) if np.isfinite(w).any() else (0.0, 0.0)
        return 0.5 * (w - low) / (high - low) if high > low else np.where(np.isnan(w), np.nan, 0.0)
    raise UsageError(f'unknown rate "{form}"', fix="use " + ", ".join(RATES))


def kept(
    mode: str,
    groups: Groups,
    visual: np.ndarray,
    clip: np.ndarray,
    w: np.ndarray,
    percent: float = 30,
    rate: str = "half",
    rounding: str = "floor",
) -> np.ndarray:
    """Mark the pairs that stay; among equal scores the first pair is dropped.

    Args:
        mode: A row of table 3. "clip" (a) drops ``percent`` of all pairs by CLIP score, "clip-group" (b) ``percent`` of
            each group by CLIP score, "fixed" (c) ``percent`` of each group by similarity to its centre, "adaptive" (d)
            a share of each group that ``rate`` gives. "none" drops nothing.
        groups: The pairs of each root.
        visual: Cosine of each pair and the centre of its group, float (P,).
        clip: CLIP score of each pair, float (P,).
        w: Spread of each group, float (R,).
        percent: Share to drop, 0 to 100.
        rate: See `adaptive_rate`.
        rounding: "floor" or "ceil" of the number to drop, or "quantile": what is below that quantile of the scores.

    Returns:
        bool (P,).
    """
    if mode == "none":
        return np.ones(len(visual), bool)
    if mode == "clip":
        return _without_lowest(clip, len(clip) * percent / 100, rounding)
    if mode not in MODES:
        raise UsageError(f'unknown filter "{mode}"', fix="use " + ", ".join(MODES))
    score, rates = clip if mode == "clip-group" else visual, adaptive_rate(w, rate)
    stay = np.ones(len(score), bool)
    for root, pairs in groups.each():
        number = rates[root] * len(pairs) if mode == "adaptive" else len(pairs) * percent / 100
        stay[pairs] = _without_lowest(score[pairs], number, rounding)
    return stay


def _without_lowest(score: np.ndarray, number: float, rounding: str) -> np.ndarray:
    if rounding == "quantile" and len(score):
        count = int((score < np.quantile(score, number / len(score))).sum())
    else:
        count = math.ceil(number) if rounding == "ceil" else math.floor(number)
    stay = np.ones(len(score), bool)
    stay[np.argsort(score, kind="stable")[:count]] = False
    return stay
