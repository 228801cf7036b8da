"""Collect class probabilities while an image is labelled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovbench.inference.predictor import Predictor
from ovbench.inference.windowed_image import Fragment


class Confidence:
    """A listener of one image that keeps the probability of the best class of every pixel.

    Args:
        predictor: The predictor, with one vocabulary.
        scores: Whether to keep the class probabilities at the size of the merged windows too.
    """

    def __init__(self, predictor: Predictor, *, scores: bool = False):
        self.predictor, self.keeps_scores = predictor, scores
        self.decision, self.queries = predictor.decisions[0], predictor.vocabularies[0]
        self.full = "full_scores" if predictor.maps.refine is None else "refined_scores"
        self._best: Tensor | None = None
        self._total: Tensor | None = None
        self._merged: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, name: str, value: Any) -> None:
        """Take a note of the predictor."""
        if name == "merged_scores":  # also the start of a repetition, after memory ran out
            self._best = self._total = None
        if name in ("merged_scores", "adjusted_scores") and self.keeps_scores:
            self._merged = value.clone()
        elif name == "probabilities":
            part = value if isinstance(value, Fragment) else Fragment(value, (slice(None),) * 3, tuple(value.shape))
            self._start(part)[part.index[1:]] = part.values.amax(0)
        elif name == self.full and self.predictor.maps.by_queries:
            self._add(value)

    def _start(self, part: Fragment) -> Tensor:
        if self._best is None:
            self._best = part.values.new_full(part.size[1:], -torch.inf)
            self._total = torch.zeros_like(self._best)
        return self._best

    def _add(self, part: Fragment) -> None:
        """Add the scores of some queries at some pixels: the best one, and the sum of the softmax relative to it."""
        before = self._start(part)[part.index[1:]]
        if self.decision.from_probabilities:
            self._best[part.index[1:]] = torch.maximum(before, part.values.amax(0))
            return
        logits = part.values * self.decision.logit_scale
        best = torch.maximum(before, logits.amax(0))
        total = self._total[part.index[1:]] * (before - best).exp_()
        self._total[part.index[1:]] = total.add_(logits.sub_(best).exp_().sum(0))
        self._best[part.index[1:]] = best

    @torch.inference_mode()
    def confidence(self) -> np.ndarray:
        """Return the probability of the best class, float32 (H, W) in 0..1."""
        from_logits = self.predictor.maps.by_queries and not self.decision.from_probabilities
        return (self._total.reciprocal() if from_logits else self._best).cpu().numpy()

    @torch.inference_mode()
    def scores(self) -> np.ndarray:
        """Return the class probabilities before refinement, float16 (C, h, w), at the size of the merged windows."""
        found = self.predictor.method.probabilities(self._merged, self.queries, self.decision)
        return found.cpu().numpy().astype(np.float16)
