"""Base class of the methods that change only the last block of CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Heads, Watch
from ovbench.methods.base import Batch, Method, PatchFeatures
from ovbench.methods.params import Residual


class LastBlock(Method):
    """Run CLIP unchanged up to its last block; override `last`, or `mix` alone.

    Such a method can be the base of another one: `dense` shows the attention of the unchanged blocks, and
    `class_features` runs the unchanged tower.
    """

    Params: ClassVar[type] = Residual
    windowwise = True
    smooth_positions: ClassVar[bool] = False

    def encode(self, batch: Batch) -> PatchFeatures:
        """Return the features of the windows."""
        return self.dense(batch.windows, batch.note)

    def dense(
        self, windows: Tensor, note: Callable[[str, Any], None] = lambda name, value: None, watch: Watch | None = None
    ) -> PatchFeatures:
        """Return the patch features of windows.

        Args:
            windows: float (B, 3, h, w), normalised.
            note: Called with the name and value of intermediate tensors.
            watch: Called with the attention weights of every block except the last.

        Returns:
            Features float (B, N, D) on a grid (gh, gw), N = gh * gw.
        """
        tokens, grid = self.clip.embed(windows, smooth_positions=self.smooth_positions)
        x = self.clip.trunk(tokens, watch=watch)  # (B, 1 + N, C)
        note("tokens_before_last", x)
        x = self.last(x, grid)
        return PatchFeatures(self.clip.project(x[:, -grid[0] * grid[1] :]), grid)

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Run the last block on tokens (B, 1 + N, C), class token first.

        Returns:
            float (B, 1 + N, C), or (B, N, C) without the class token, before ``ln_post``.
        """
        block = self.clip.blocks[-1]
        heads = self.clip.project_heads(block, block.ln_1(x))
        attended = self.clip.merge_heads(block, self.mix(heads, grid))
        return self.clip.feed_forward(block, x + attended) if self.params.residual else attended

    def mix(self, heads: Heads, grid: tuple[int, int]) -> Tensor:
        """Return the mixed values (B, heads, 1 + N, C / heads) of the last block: softmax(q k^T) v here."""
        return F.scaled_dot_product_attention(heads.q, heads.k, heads.v)

    def class_features(self, images: Tensor) -> Tensor:
        """Return the class tokens (B, D) of images (B, 3, h, w) from the unchanged tower, in the joint space."""
        tokens, _ = self.clip.embed(images, smooth_positions=self.smooth_positions)
        x, block = self.clip.trunk(tokens), self.clip.blocks[-1]
        q, k, v = self.clip.project_heads(block, block.ln_1(x))
        attended = self.clip.merge_heads(block, F.scaled_dot_product_attention(q[:, :, :1], k, v))  # one query: class
        return self.clip.project(self.clip.feed_forward(block, x[:, :1] + attended))[:, 0]
