"""From merged window scores to one label per pixel of the original image.

Two equal ways say what a label is. By maps: `class_probabilities`, then `decide`, for methods whose probabilities are
their own. By queries: `Leading`, which keeps the best query of every pixel while scores come some queries at a time,
and never holds a map per query. They differ only where rounding does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Elements of a tile: on the CPU what is made of it should stay in the cache, on a GPU launches should be few.
TILE_CPU, TILE_GPU = 1 << 18, 1 << 26
FEW = 64  # rows that are searched at once


@dataclass(frozen=True)
class Decision:
    """How scores become labels (official CLIP-based protocols, ``facts`` of each method).

    ``logit_scale`` multiplies cosines before the softmax over queries; pixels whose best class probability is below
    ``prob_thd`` become the class ``background`` (0, or no background: there is no threshold).
    """

    logit_scale: float = 40.0
    prob_thd: float = 0.0
    background: int | None = None

    @property
    def threshold(self) -> float:
        """The threshold that is used: 0 where there is no background to fall back to."""
        return 0.0 if self.background is None else self.prob_thd


def tile_elements(device: torch.device) -> int:
    """How many elements a tile should have."""
    return TILE_CPU if device.type == "cpu" else TILE_GPU


def class_probabilities(scores: Tensor, class_index: Tensor, decision: Decision) -> Tensor:
    """Softmax over all queries, then the maximum over the synonyms of a class.

    Args:
        scores: f[q, ...] cosines, one row per query.
        class_index: i64[q] the class of each query, every class from 0 to the last present at least once.

    Returns:
        f[c, ...] probabilities, which sum to less than one where synonyms share them.
    """
    queries = (scores * decision.logit_scale).softmax(0)
    classes = int(class_index[-1]) + 1
    if classes == len(class_index):
        return queries
    index = class_index.view(-1, *[1] * (queries.dim() - 1)).expand_as(queries)
    empty = queries.new_zeros((classes, *queries.shape[1:]))
    return empty.scatter_reduce(0, index, queries, "amax")


def decide(probabilities: Tensor, decision: Decision) -> Tensor:
    """Labels i64[...] of the most probable class of f[c, ...]; the background where no class reaches the threshold."""
    best, labels = largest(probabilities)
    return _or_background(labels, best, decision)


class Leading:
    """The best query of every pixel, of scores that come some queries at a time: add them all, then take `labels`.

    The best class owns the best query, whose probability is ``1 / sum(exp(logit - best logit))``; that sum is kept
    where there is a threshold. The first of equal queries wins.
    """

    def __init__(self, class_index: Tensor, decision: Decision):
        self.class_index, self.decision = class_index, decision
        self.seen = 0
        self.value: Tensor | None = None
        self.row: Tensor | None = None
        self.total: Tensor | None = None

    def add(self, scores: Tensor) -> Leading:
        """Take the scores f[k, ...] of the next k queries."""
        value, row = largest(scores)
        row += self.seen
        self.seen += len(scores)
        before = self.value
        if before is not None:
            ahead = value > before
            self.row = torch.where(ahead, row, self.row)
            self.value = torch.where(ahead, value, before)
        else:
            self.value, self.row = value, row
        if self.decision.threshold > 0:
            scale = self.decision.logit_scale
            total = (scores - self.value).mul_(scale).exp_().sum(0)
            self.total = total if before is None else total + self.total * ((before - self.value) * scale).exp_()
        return self

    def labels(self) -> Tensor:
        """Labels i64[...]."""
        labels = self.class_index[self.row]
        return labels if self.total is None else _or_background(labels, 1 / self.total, self.decision)


def _or_background(labels: Tensor, best: Tensor, decision: Decision) -> Tensor:
    if decision.threshold > 0:
        return labels.masked_fill(best < decision.threshold, decision.background)
    return labels


class Largest(NamedTuple):
    """The largest value f[...] of each pixel and the first row i64[...] that has it."""

    value: Tensor
    row: Tensor


def largest(values: Tensor) -> Largest:
    """``values.max(0)`` of f[q, ...], the first row of equal ones.

    To find a maximum is quick, to find its place is not. So of many rows first the largest of each group is found, and
    the winning group alone is searched.
    """
    flat = values.flatten(1)
    count = len(flat)
    if count <= FEW:
        value = flat.amax(0)
        row = _first(flat == value)
    else:
        size = round(count**0.5)
        rest = count % size
        heads = flat[: count - rest].unflatten(0, (-1, size)).amax(1)
        if rest:
            heads = torch.cat([heads, flat[-rest:].amax(0, keepdim=True)])
        value = heads.amax(0)
        row = _first(heads == value) * size
        group = torch.arange(size, device=flat.device)[:, None] + row
        row += _first(flat.gather(0, group.clamp_(max=count - 1)) == value)
        row.clamp_(max=count - 1)
    return Largest(value.view(values.shape[1:]), row.view(values.shape[1:]))


def _first(found: Tensor) -> Tensor:
    """The first row of bool[k, n] that holds, i64[n]; the last one where none does, as among NaN."""
    rows = len(found)
    downwards = torch.arange(rows, 0, -1, dtype=torch.int16, device=found.device)[:, None]
    return (rows - (found * downwards).amax(0).long()).clamp_(max=rows - 1)
