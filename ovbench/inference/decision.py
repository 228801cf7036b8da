"""From merged window scores to one label per pixel of the original image.

Labels are computed in two equivalent forms, which differ by rounding only. By maps: `class_probabilities`, then
`decide`, for methods with their own probabilities. By queries: `Leading` keeps the best query of each pixel while
scores arrive some queries at a time, so that no map per query is held.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovbench.methods.ops import Decision, largest

# Elements of a tile: small enough for the cache of a CPU, large enough for few launches on a GPU.
TILE_CPU, TILE_GPU = 1 << 18, 1 << 26


def tile_elements(device: torch.device) -> int:
    """Return the number of elements that a tile should have."""
    return TILE_CPU if device.type == "cpu" else TILE_GPU


def decide(probabilities: Tensor, decision: Decision) -> Tensor:
    """Return the most probable class of each pixel, or the background if no class reaches the threshold.

    Args:
        probabilities: float (C, ...).
        decision: threshold and background.

    Returns:
        int64 (...).
    """
    best, labels = largest(probabilities)
    return _or_background(labels, best, decision)


class Leading:
    """Keep the best query of each pixel: `add` the scores of all queries, then take `labels`.

    The best class owns the best query, whose probability is ``1 / sum(exp(logit - best logit))``; this sum is kept if
    there is a threshold. The first of equal queries wins.
    """

    def __init__(self, class_index: Tensor, decision: Decision):
        self.class_index, self.decision = class_index, decision
        self.seen = 0
        self.value: Tensor | None = None
        self.row: Tensor | None = None
        self.total: Tensor | None = None

    def add(self, scores: Tensor) -> Leading:
        """Add the scores of the next queries, float (K, ...); return this object."""
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
        """Return the labels, int64 (...)."""
        labels = self.class_index[self.row]
        return labels if self.total is None else _or_background(labels, 1 / self.total, self.decision)


def _or_background(labels: Tensor, best: Tensor, decision: Decision) -> Tensor:
    if decision.threshold > 0:
        return labels.masked_fill(best < decision.threshold, decision.background)
    return labels
