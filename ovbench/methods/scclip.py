"""SC-CLIP: CLIP resolves its anomaly tokens and adjusts its last block by its own middle blocks."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Note
from ovbench.methods.declarations import SCCLIPDeclaration
from ovbench.methods.self_calibration import Prepared, SelfCalibrated, above_quantile, outlier_factors, repair


class SCCLIP(SCCLIPDeclaration, SelfCalibrated):
    """Repair anomaly tokens, then average and attend by the similarity of middle tokens, and add middle levels.

    Paper: Bai et al., "Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation", arXiv 2411.15869. Code:
    SuleBai/SC-CLIP 0417ba9. Its steps are those of `SelfCalibrated.dense`. Its index arithmetic holds for square
    windows only; ours for all.
    """

    advice: ClassVar[str] = "pre_level=16, post_level=6, multi_start=8, multi_end=19, res_cls=0.1"

    def prepare(self, t: dict[int, Tensor], grid: tuple[int, int], note: Note) -> Prepared:
        """Return X and the pre level, both with the anomalies of X repaired (steps 1 and 2)."""
        x, guide = super().prepare(t, grid, note)
        if not self.params.repair:
            return Prepared(x, guide)
        scores = outlier_factors(x, self.params.neighbours, textbook=self.params.detector == "lof")
        anomalies = above_quantile(scores, self.params.contamination)  # (B, N)
        x = repair(x, anomalies, grid)
        for name, value in (("scores", scores), ("outliers", anomalies), ("tokens_repaired", x)):
            note(name, value)
        return Prepared(x, repair(guide, anomalies, grid))

    def attend(self, x: Tensor, m: Tensor, step: str, note: Note) -> Tensor:
        """Return O(A v) with A = (M + softmax(k k^T)) / 2, M the same for all heads."""
        block = self.clip.blocks[-1]
        _, k, v = self.clip.project_heads(block, block.ln_1(x))  # (B, H, N, C / H)
        mixed = F.scaled_dot_product_attention(k, k, v)
        if self.params.calibrate:
            mixed = (m[:, None] @ v + mixed) / 2
        note(f"{step}_keys", k)
        return self.clip.merge_heads(block, mixed)
