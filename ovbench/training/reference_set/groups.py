"""Group-based filtering (section 3.2): pairs that share a root noun, and which of them look unlike the others.

A pair is a segment with a phrase. Pairs come sorted by (segment, phrase), and everything here keeps that order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ovbench.methods.reme.vectors import cosines, unit
from ovbench.utils.errors import UsageError

COLUMNS_AT_ONCE = 128
MODES = ("fixed", "adaptive", "clip", "clip-group", "none")
ROUNDINGS = ("floor", "ceil", "quantile")
RATES = ("half", "clip", "minmax")


class Groups(NamedTuple):
    """Pairs by root: those of root r are ``order[start[r] : start[r + 1]]``, ascending."""

    order: np.ndarray
    start: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.start)

    def each(self) -> Iterator[tuple[int, np.ndarray]]:
        """Root and pairs of every group that has some."""
        for root in np.flatnonzero(self.sizes):
            yield int(root), self.order[self.start[root] : self.start[root + 1]]


class Cohesion(NamedTuple):
    """``score`` f32[p]: cosine of a pair's segment with the centre of its group; ``w`` f64[g]: how spread a group is,
    the mean of 1 - score, NaN where a root has no pair."""

    score: np.ndarray
    w: np.ndarray


def group_pairs(roots: np.ndarray, count: int) -> Groups:
    """Groups of pairs by their roots i[p], 0..count-1."""
    order = np.argsort(roots, kind="stable")
    return Groups(order, np.concatenate([[0], np.bincount(roots, minlength=count).cumsum()]))


def centre(members: np.ndarray) -> np.ndarray:
    """The element-wise median of unit vectors f32[n, d] (of an even number the mean of the two middle values), of
    length 1."""
    columns = range(0, members.shape[1], COLUMNS_AT_ONCE)
    return unit(np.concatenate([np.median(members[:, c : c + COLUMNS_AT_ONCE], axis=0) for c in columns]))


def cohesion(
    rows: Callable[[np.ndarray], np.ndarray],
    segments: np.ndarray,
    groups: Groups,
    advance: Callable[[int], object] = lambda pairs: None,
) -> Cohesion:
    """How well every pair fits its group. ``rows`` reads visual embeddings f[n, d] of segments; one group is in memory
    at a time. A segment with two phrases of one root is two members. ``advance`` hears of the pairs done."""
    score, w = np.empty(len(segments), np.float32), np.full(len(groups.sizes), np.nan)
    for root, pairs in groups.each():
        members = unit(rows(segments[pairs]))
        score[pairs] = cosines(members, centre(members)[None])[:, 0]
        w[root] = np.mean(1.0 - score[pairs].astype(np.float64))
        advance(len(pairs))
    return Cohesion(score, w)


def adaptive_rate(w: np.ndarray, form: str = "half") -> np.ndarray:
    """The share to drop of each group, 0..0.5, more where it is spread (supplement C.1). "half": 0.5 clip(w, 0, 1);
    "clip": min(w, 0.5); "minmax": 0.5 of w's place between the least and the most spread group."""
    if form == "half":
        return 0.5 * np.clip(w, 0, 1)
    if form == "clip":
        return np.clip(w, 0, 0.5)
    if form == "minmax":
        low, high = (np.nanmin(w), np.nanmax(w)) if np.isfinite(w).any() else (0.0, 0.0)
        return 0.5 * (w - low) / (high - low) if high > low else np.where(np.isnan(w), np.nan, 0.0)
    raise UsageError(f'no rate "{form}"', fix="use " + ", ".join(RATES))


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
    """Which pairs stay, bool[p]. The rows of table 3: "clip" (a) drops the ``percent`` of all pairs with the lowest
    CLIP score; "clip-group" (b) those of every group; "fixed" (c) those of every group that are least similar to its
    centre; "adaptive" (d) as many of every group as its ``rate`` says; "none" drops nothing.

    Numbers are rounded as ``rounding`` says, "quantile" drops what lies below that quantile of the scores (linear); of
    equal scores the pair that comes first is dropped.
    """
    if mode == "none":
        return np.ones(len(visual), bool)
    if mode == "clip":
        return _without_lowest(clip, len(clip) * percent / 100, rounding)
    if mode not in MODES:
        raise UsageError(f'no filter "{mode}"', fix="use " + ", ".join(MODES))
    score = clip if mode == "clip-group" else visual
    rates = adaptive_rate(w, rate)
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
