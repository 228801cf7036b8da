"""The best query of each pixel, found while some queries are added at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ovbench.methods.ops import Decision, largest


class BestClass(NamedTuple):
    """The best class of each pixel before the threshold, int64 (H, W), and its probability, float (H, W)."""

    label: Tensor
    probability: Tensor

    @classmethod
    def empty(cls, size: tuple[int, int], like: Tensor) -> BestClass:
        """Return unset values with the device of a tensor, and its dtype for the probability."""
        return cls(like.new_empty(size, dtype=torch.int64), like.new_empty(size))


class Leading:
    """The best query of each pixel: `add` the scores of all queries, then call `labels`.

    The best class has the best query, whose probability is ``1 / sum(exp(logit - best logit))``; this sum is kept if
    there is a threshold, or if `best` is asked for. The first of equal queries wins.
    """

    def __init__(self, class_index: Tensor, decision: Decision, *, confident: bool = False):
        self.class_index, self.decision = class_index, decision
        self.sums = (decision.threshold > 0 or confident) and not decision.from_probabilities
        self.seen = 0
        self.value: Tensor | None = None
        self.row: Tensor | None = None
        self.total: Tensor | None = None

    def add(self, scores: Tensor) -> Leading:
        """Add the scores of the next queries, float (K, ...); return self."""
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
        if self.sums:
            scale = self.decision.logit_scale
            total = (scores - self.value).mul_(scale).exp_().sum(0)
            self.total = total if before is None else total + self.total * ((before - self.value) * scale).exp_()
        return self

    def labels(self) -> Tensor:
        """Return the labels, int64 (...)."""
        labels = self.class_index[self.row]
        if self.decision.from_probabilities:
            return or_background(labels, self.value, self.decision)
        return labels if self.total is None else or_background(labels, 1 / self.total, self.decision)

    def best(self) -> BestClass:
        """Return the best class and its probability; only with ``confident``."""
        probability = self.value if self.decision.from_probabilities else 1 / self.total
        return BestClass(self.class_index[self.row], probability)


def or_background(labels: Tensor, best: Tensor, decision: Decision) -> Tensor:
    """Return the labels with the background where the best probability is below the threshold."""
    if decision.threshold > 0:
        return labels.masked_fill(best < decision.threshold, decision.background)
    return labels
