"""From merged window scores to one label per pixel of the original image.

Two equal ways say what a label is. By maps: `class_probabilities`, then `decide`, for methods whose probabilities are
their own. By queries: `Leading`, which keeps the best query of every pixel while scores come some queries at a time,
and never holds a map per query. They differ only where rounding does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovbench.methods.ops import Decision, largest

# Elements of a tile: on the CPU what is made of it should stay in the cache, on a GPU launches should be few.
TILE_CPU, TILE_GPU = 1 << 18, 1 << 26


def tile_elements(device: torch.device) -> int:
    """How many elements a tile should have."""
    return TILE_CPU if device.type == "cpu" else TILE_GPU


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
