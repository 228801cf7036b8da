"""Tensor operations that methods and the pipeline share: cell scores to pixels, scores to class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ovbench.methods.bilinear import enlarge

FEW = 64  # rows that are searched at once


class Pad(NamedTuple):
    """Pixels added on each side of a window."""

    left: int
    right: int
    top: int
    bottom: int


def uncut(scores: Tensor, size: tuple[int, int], pad: Pad, *, align_corners: bool = False) -> Tensor:
    """Patch scores ``[b, q, gh, gw]`` to pixels of the window ``[b, q, h, w]``: bilinear to the padded window of
    ``size`` plus ``pad``, then the padding is cut off."""
    h, w = size
    padded = (h + pad.top + pad.bottom, w + pad.left + pad.right)
    scores = enlarge(scores, padded, align_corners=align_corners)
    return scores[..., pad.top : pad.top + h, pad.left : pad.left + w]


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
