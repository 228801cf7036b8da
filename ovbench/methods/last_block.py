"""What the methods share that leave CLIP as it is but for its last block: they differ in a few lines there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Heads, Watch
from ovbench.methods.base import Batch, Method, PatchFeatures


@dataclass(frozen=True)
class Residual:
    """``residual``: the last block keeps its residual stream and its feed-forward, as every other block."""

    residual: bool = True


@dataclass(frozen=True)
class NoResidual:
    """``residual``: the last block keeps its residual stream and its feed-forward, as every other block."""

    residual: bool = False


class LastBlock(Method):
    """Ordinary CLIP up to the tokens that enter the last block; override `last`, or `mix` alone.

    ``dense`` offers the attention of the ordinary blocks to whoever watches, and ``class_features`` the unmodified
    tower, so that a method of this family can serve as the base of another one.
    """

    Params: ClassVar[type] = Residual
    windowwise = True
    smooth_positions: ClassVar[bool] = False

    def encode(self, batch: Batch) -> PatchFeatures:
        return self.dense(batch.windows, batch.note)

    def dense(
        self, windows: Tensor, note: Callable[[str, Any], None] = lambda name, value: None, watch: Watch | None = None
    ) -> PatchFeatures:
        """Features of windows f[b, 3, h, w]; ``watch`` sees the attention of all blocks but the last."""
        tokens, grid = self.clip.embed(windows, smooth_positions=self.smooth_positions)
        x = self.clip.trunk(tokens, watch=watch)
        note("tokens_before_last", x)
        x = self.last(x, grid)
        return PatchFeatures(self.clip.project(x[:, -grid[0] * grid[1] :]), grid)

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The last block: tokens f[b, n, c], class token first, to tokens f[b, n, c] before ``ln_post``."""
        block = self.clip.blocks[-1]
        heads = self.clip.project_heads(block, block.ln_1(x))
        attended = self.clip.merge_heads(block, self.mix(heads, grid))
        return self.clip.feed_forward(block, x + attended) if self.params.residual else attended

    def mix(self, heads: Heads, grid: tuple[int, int]) -> Tensor:
        """The attention of the last block: values f[b, heads, n, c / heads] after mixing; the ordinary one."""
        return F.scaled_dot_product_attention(heads.q, heads.k, heads.v)

    def class_features(self, images: Tensor) -> Tensor:
        """The class token of the unmodified tower in the joint space: f[b, d]. In the last block only it is asked."""
        tokens, _ = self.clip.embed(images, smooth_positions=self.smooth_positions)
        x, block = self.clip.trunk(tokens), self.clip.blocks[-1]
        q, k, v = self.clip.project_heads(block, block.ln_1(x))
        attended = self.clip.merge_heads(block, F.scaled_dot_product_attention(q[:, :, :1], k, v))
        return self.clip.project(self.clip.feed_forward(block, x[:, :1] + attended))[:, 0]
