"""Tensor operations of methods and pipeline: patch scores to pixels, scores to class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ovbench.methods.bilinear import enlarge

FEW = 64  # rows up to which `largest` compares all rows at once


class Pad(NamedTuple):
    """The number of pixels added on each side of a window."""

    left: int
    right: int
    top: int
    bottom: int


class Box(NamedTuple):
    """A half-open rectangle in pixels of the resized image."""

    y1: int
    x1: int
    y2: int
    x2: int

    @property
    def size(self) -> tuple[int, int]:
        """Return (h, w)."""
        return self.y2 - self.y1, self.x2 - self.x1

    def of(self, image: Tensor) -> Tensor:
        """Return this rectangle of an image (..., H, W) as a view (..., h, w)."""
        return image[..., self.y1 : self.y2, self.x1 : self.x2]


def uncut(scores: Tensor, size: tuple[int, int], pad: Pad, *, align_corners: bool = False) -> Tensor:
    """Resize patch scores to the padded window and cut off the padding.

    Args:
        scores: float (B, Q, gh, gw).
        size: (h, w) of the window without padding.
        pad: Padding of the window.
        align_corners: See `ovbench.methods.bilinear.axis`.

    Returns:
        float (B, Q, h, w).
    """
    h, w = size
    padded = (h + pad.top + pad.bottom, w + pad.left + pad.right)
    scores = enlarge(scores, padded, align_corners=align_corners)
    return scores[..., pad.top : pad.top + h, pad.left : pad.left + w]


@dataclass(frozen=True)
class Decision:
    """Set how scores become labels, as in the official CLIP-based protocols.

    Attributes:
        logit_scale: Factor of the cosines before the softmax over queries.
        prob_thd: Pixels whose best class probability is lower become background (0 or no background: no threshold).
        background: Index of the background class, or None.
        from_probabilities: Whether merged scores are probabilities of the queries already.
    """

    logit_scale: float = 40.0
    prob_thd: float = 0.0
    background: int | None = None
    from_probabilities: bool = False

    @property
    def threshold(self) -> float:
        """Return the threshold in use: 0 without a background class."""
        return 0.0 if self.background is None else self.prob_thd


def class_probabilities(
    scores: Tensor, class_index: Tensor, decision: Decision, classes: int | None = None
) -> Tensor:  # fmt: skip
    """Apply the softmax over all queries, then take the maximum over the synonyms of each class.

    Args:
        scores: float (Q, ...), cosines.
        class_index: int64 (Q,), ascending, class of each query; every class from 0 to the last occurs.
        decision: Gives the scale of the cosines.
        classes: Number of classes; None reads it from ``class_index``, for which the host waits for a GPU.

    Returns:
        float (classes, ...), probabilities; with synonyms they sum to less than 1.
    """
    queries = scores if decision.from_probabilities else (scores * decision.logit_scale).softmax(0)
    classes = int(class_index[-1]) + 1 if classes is None else classes
    if classes == len(class_index):
        return queries
    index = class_index.view(-1, *[1] * (queries.dim() - 1)).expand_as(queries)
    empty = queries.new_zeros((classes, *queries.shape[1:]))
    return empty.scatter_reduce(0, index, queries, "amax")


class Largest(NamedTuple):
    """The largest value of each pixel, float (...), and the first row that has it, int64 (...)."""

    value: Tensor
    row: Tensor


def largest(values: Tensor) -> Largest:
    """Return the maximum over rows and the first row that has it.

    A maximum is fast, its index is slow. So with many rows, the maximum of each group of rows comes first, and only the
    winning group is searched. A compiler finds both while it computes the values, and needs no memory for them.

    Args:
        values: float (Q, ...).

    Returns:
        The same as ``values.max(0)``, with the first of equal rows.
    """
    if torch.compiler.is_compiling():
        return Largest(*values.max(0))
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
    """Return the first true row of bool (K, N), int64 (N,); the last row if none is true, as with NaN."""
    rows = len(found)
    downwards = torch.arange(rows, 0, -1, dtype=torch.int16, device=found.device)[:, None]
    return (rows - (found * downwards).amax(0).long()).clamp_(max=rows - 1)
