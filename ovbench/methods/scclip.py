"""SC-CLIP: CLIP resolves its anomaly tokens and adjusts its last block by its own middle blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.self_calibration import (
    CalibrationParams,
    Note,
    Prepared,
    SelfCalibrated,
    above_quantile,
    outlier_factors,
    repair,
)
from ovbench.utils.errors import UsageError

DETECTORS = ("distance", "lof")


@dataclass(frozen=True)
class SCCLIPParams(CalibrationParams):
    """Set the anomaly tokens of SC-CLIP; the other parameters are those of `CalibrationParams`.

    Attributes:
        repair: replace anomaly tokens by the mean of their neighbours; off for ablations.
        detector: score of a token, "distance" (ratios of squared k-distances, as in the code) or "lof" (the paper: the
            local outlier factor).
        neighbours: number k of nearest neighbours of the score.
        contamination: fraction of tokens with the largest scores, which are anomalies.
    """

    repair: bool = True
    detector: str = "distance"
    neighbours: int = 30
    contamination: float = 0.05

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise UsageError(f'detector is "{self.detector}"', where="scclip", fix="one of " + ", ".join(DETECTORS))
        if self.neighbours < 1 or not 0 < self.contamination < 1:
            raise UsageError("neighbours must be 1 or more, contamination between 0 and 1", where="scclip")


class SCCLIP(SelfCalibrated):
    """Repair anomaly tokens, then average and attend by the similarity of middle tokens, and add middle levels.

    Paper: Bai et al., "Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation", arXiv 2411.15869. Code:
    SuleBai/SC-CLIP 0417ba9. Its steps are those of `SelfCalibrated.dense`. Its index arithmetic holds for square
    windows only; ours for all.
    """

    Params = SCCLIPParams
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
