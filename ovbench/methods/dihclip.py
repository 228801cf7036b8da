"""DiH-CLIP: the heads whose attention is most certain mix the values of all heads."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ovbench.methods.base import Backbones, Note
from ovbench.methods.declarations import DiHCLIPDeclaration
from ovbench.methods.params import DiHCLIPParams
from ovbench.methods.self_calibration import Prepared, SelfCalibrated
from ovbench.utils.errors import UsageError

EPS = 1e-6  # inside the logarithm of the entropy


class DiHCLIP(DiHCLIPDeclaration, SelfCalibrated):
    """Mix all values by the attention of the heads of lowest entropy, at the pre level and in the last block.

    Paper: "DIH-CLIP: Unleashing the Diversity of Multi-Head Self-Attention for Training-Free Open-Vocabulary Semantic
    Segmentation", ICCV 2025. Code: duan-song/DiH-CLIP 775b609. Its steps are those of `SelfCalibrated.dense`, without
    repair.

    The code compares entropies rounded to fp16, so that heads may tie and more of them are selected; ours compares
    fp32.
    """

    advice: ClassVar[str] = "pre_level=16, post_level=6, multi_start=8, multi_end=19, res_cls=0.1"

    def __init__(self, backbones: Backbones, params: DiHCLIPParams | None = None):
        super().__init__(backbones, params)
        if self.params.heads > self.clip.heads:
            raise UsageError(f"heads is {self.params.heads}, but the tower has {self.clip.heads}", where="dihclip")

    def used_levels(self) -> set[int]:
        """Return also the level that enters the block of the pre level."""
        return super().used_levels() | {self.params.pre_level - 1}

    def prepare(self, t: dict[int, Tensor], grid: tuple[int, int], note: Note) -> Prepared:
        """Return X and the pre level plus u (steps 1 and 2)."""
        x, guide = super().prepare(t, grid, note)
        if self.params.pre_output and self.params.heads:
            u = self.selected_output(t[self.params.pre_level - 1], note)
            note("pre_output", u)
            guide = guide + u[:, 1:]
        return Prepared(x, guide)

    def selected_output(self, tokens: Tensor, note: Note) -> Tensor:
        """Return u, float (B, 1 + N, C), of the block of the pre level, which tokens (B, 1 + N, C) enter.

        Heads are selected by their ordinary attention q k^T, but mix by k k^T; their outputs are summed.
        """
        block = self.clip.blocks[self.params.pre_level]
        q, k, v = self.clip.project_heads(block, block.ln_1(tokens))  # (B, H, 1 + N, C / H)
        heads = self.select(attention(q, k), "pre", note)  # G, (B, 4)
        weights = taken(attention(k, k), heads).sum(1)  # (B, 1 + N, 1 + N)
        return self.clip.merge_heads(block, (weights @ side_by_side(v))[:, None])  # as one head of width C

    def attend(self, x: Tensor, m: Tensor, step: str, note: Note) -> Tensor:
        """Return O(sum over the selected heads of p_h v / H) with p_h = (M + softmax(k k^T)) / 2 and v of all heads."""
        block = self.clip.blocks[-1]
        _, k, v = self.clip.project_heads(block, block.ln_1(x))  # (B, H, N, C / H)
        p = attention(k, k)  # (B, H, N, N)
        if self.params.calibrate:
            p = (p + m[:, None]) / 2
        if not self.params.heads:
            return self.clip.merge_heads(block, p @ v)
        heads = self.select(p, step, note)
        chosen = taken(p, heads)  # (B, 4, N, N)
        note(f"{step}_attention", chosen)
        mixed = chosen.sum(1) @ side_by_side(v) / self.clip.heads
        return self.clip.merge_heads(block, mixed[:, None])  # as one head of width C

    def select(self, weights: Tensor, step: str, note: Note) -> Tensor:
        """Return the heads of lowest entropy of attention weights float (B, H, n, n), ascending, int64 (B, 4)."""
        entropy = -(weights * torch.log2(weights + EPS)).sum((2, 3))  # e_h in bits, (B, H)
        heads = entropy.topk(self.params.heads, largest=False).indices.sort(-1).values
        note(f"{step}_entropy", entropy)
        note(f"{step}_heads", heads)
        return heads


def attention(one: Tensor, other: Tensor) -> Tensor:
    """Return the attention weights softmax(a b^T / sqrt(width)) of heads, float (B, H, n, n)."""
    return (one @ other.mT * one.shape[-1] ** -0.5).softmax(-1)


def taken(weights: Tensor, heads: Tensor) -> Tensor:
    """Return the weights (B, G, n, n) of the heads int64 (B, G) of each window, from all (B, H, n, n)."""
    return weights[torch.arange(len(heads), device=heads.device)[:, None], heads]


def side_by_side(v: Tensor) -> Tensor:
    """Return values float (B, H, n, C / H) of all heads as float (B, n, C)."""
    return v.transpose(1, 2).flatten(2)
