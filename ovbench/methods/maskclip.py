"""MaskCLIP (Zhou et al., ECCV 2022, chongzhou96/MaskCLIP 245d31f): every token of the last block keeps its own value.

Later papers use the name for shorter forms; ``residual=false`` is the form that ClearCLIP's code runs by default.
"""

from __future__ import annotations

from torch import Tensor

from ovbench.methods.base import NoParams
from ovbench.methods.last_block import LastBlock


class MaskCLIP(LastBlock):
    """The last block's attention weights are the identity, so it is never computed: attention = O(v)."""

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        attended = self.own_values(x := x[:, 1:])
        return self.clip.feed_forward(self.clip.blocks[-1], x + attended) if self.params.residual else attended

    def own_values(self, x: Tensor) -> Tensor:
        block = self.clip.blocks[-1]
        return block.ls_1(block.attn.out_proj(self.clip.values(block, block.ln_1(x))))


class MaskCLIPFreeCP(MaskCLIP):
    """What chenqi1126/FreeCP 6946aa7 runs under the name: O(v) through the feed-forward, but without the stream x."""

    Params = NoParams

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.clip.feed_forward(self.clip.blocks[-1], self.own_values(x[:, 1:]))
