"""From merged window scores to one label per pixel of the original image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Decision:
    """How scores become labels (official CLIP-based protocols, ``facts`` of each method).

    ``logit_scale`` multiplies cosines before the softmax over queries; pixels whose best class probability is below
    ``prob_thd`` become class 0 (0 switches this off).
    """

    logit_scale: float = 40.0
    prob_thd: float = 0.0


def upsample(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Merged scores ``[q, h, w]`` brought bilinearly to the original image size ``[q, H, W]``."""
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]


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
    """Labels i64[...] of the most probable class; class 0 where no class reaches the threshold."""
    best, labels = probabilities.max(0)
    if decision.prob_thd > 0:
        labels = torch.where(best < decision.prob_thd, torch.zeros_like(labels), labels)
    return labels
