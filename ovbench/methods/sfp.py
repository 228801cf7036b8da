"""SFP: purify the tokens that attract the class token, then calibrate the last block as SC-CLIP does."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Note
from ovbench.methods.declarations import SFPDeclaration
from ovbench.methods.self_calibration import Prepared, SelfCalibrated, above_quantile, outlier_factors, repair

NEIGHBOURS, CONTAMINATION = 30, 0.05  # of the detector "distance"


class ClassAttention(NamedTuple):
    """Mean attention weights of one block, each float (B, N).

    Attributes:
        to_patch: Weight of the class token to each patch.
        to_itself: Weight of each patch to itself.
    """

    to_patch: Tensor
    to_itself: Tensor


class SFP(SFPDeclaration, SelfCalibrated):
    """Repair the patches that the class token attends to more than they do, then calibrate the last block.

    Paper: "Feature Purification Matters: Suppressing Outlier Propagation for Training-Free Open-Vocabulary Semantic
    Segmentation", ICCV 2025. Code: Kimsure/SFP 2804f5b. Its steps are those of `SelfCalibrated.dense`.

    Ours differs in one point: an outlier whose neighbours are all outliers keeps its token. In the code it becomes
    zero, and every feature of the window NaN. Of the paper, the detection in every block and the hierarchical attention
    integrator are not in the code, so not here.
    """

    cut_attention: ClassVar[bool] = True

    def used_levels(self) -> set[int]:
        """Return also the level that enters the last but one block."""
        return super().used_levels() | {self.last_level - 1}

    def prepare(self, t: dict[int, Tensor], grid: tuple[int, int], note: Note) -> Prepared:
        """Return X and the pre level, both with the outliers of X repaired (steps 1 and 2)."""
        x, guide = super().prepare(t, grid, note)
        if not self.params.repair:
            return Prepared(x, guide)
        outliers = self.detect(t, note)  # (B, N)
        x = repair(x, outliers, grid)
        note("outliers", outliers)
        note("tokens_repaired", x)
        return Prepared(x, repair(guide, outliers, grid) if self.params.repair_pre else guide)

    def detect(self, t: dict[int, Tensor], note: Note) -> Tensor:
        """Return the outliers of the windows, bool (B, N)."""
        x = t[self.last_level][:, 1:]
        if self.params.detector == "distance":
            scores = outlier_factors(x, NEIGHBOURS)
            note("scores", scores)
            return above_quantile(scores, CONTAMINATION)
        if self.params.detector == "norm":
            return largest_of(x.norm(dim=-1), self.params.outliers)
        to_patch, to_itself = self.class_attention(t[self.last_level - 1])
        to_patch = self.params.res_cls * self.params.res_scale * to_patch
        note("class_to_patch", to_patch)
        note("patch_to_itself", to_itself)
        candidates = to_patch > to_itself
        return candidates & largest_of(to_patch.masked_fill(~candidates, -1), self.params.outliers)

    def class_attention(self, tokens: Tensor) -> ClassAttention:
        """Return the mean over heads of the attention in the last but one block, which tokens (B, 1 + N, C) enter."""
        block = self.clip.blocks[-2]
        q, k, _ = self.clip.project_heads(block, block.ln_1(tokens))
        to_patch = to_itself = 0
        for head in range(self.clip.heads):
            weights = (q[:, head] @ k[:, head].mT * q.shape[-1] ** -0.5).softmax(-1)  # (B, 1 + N, 1 + N)
            to_patch = to_patch + weights[:, 0, 1:]
            to_itself = to_itself + weights.diagonal(dim1=-2, dim2=-1)[:, 1:]
        return ClassAttention(to_patch / self.clip.heads, to_itself / self.clip.heads)

    def attend(self, x: Tensor, m: Tensor, step: str, note: Note) -> Tensor:
        """Return O(A v): A = (softmax(k k^T) + softmax(q q^T) + M) / 3, and for the summed levels A = M."""
        block = self.clip.blocks[-1]
        q, k, v = self.clip.project_heads(block, block.ln_1(x))  # (B, H, N, C / H)
        by_similarity = m[:, None] @ v
        if step == "multi" and self.params.multi_attention == "similarity":
            return self.clip.merge_heads(block, by_similarity)
        mixed = F.scaled_dot_product_attention(k, k, v) + F.scaled_dot_product_attention(q, q, v)
        mixed = (mixed + by_similarity) / 3 if self.params.calibrate else mixed / 2
        note(f"{step}_keys", k)
        note(f"{step}_queries", q)
        return self.clip.merge_heads(block, mixed)


def largest_of(values: Tensor, count: int) -> Tensor:
    """Return which of the values float (B, N) are the ``count`` largest of their row, bool (B, N)."""
    found = values.topk(min(count, values.shape[1])).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, found, True)
