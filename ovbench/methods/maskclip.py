"""MaskCLIP: every token of the last block keeps its own value."""

from __future__ import annotations

from torch import Tensor

from ovbench.methods.last_block import LastBlock
from ovbench.methods.params import NoParams


class MaskCLIP(LastBlock):
    """Replace the attention of the last block by the identity: its output is O(v), with O the output projection.

    Paper: Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022. Code: chongzhou96/MaskCLIP 245d31f.
    Later papers use the name for shorter forms: ``residual=false`` is the default of ClearCLIP's code.
    """

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the patch tokens after O(v), by default with residual and feed-forward."""
        attended = self.own_values(x := x[:, 1:])
        return self.clip.feed_forward(self.clip.blocks[-1], x + attended) if self.params.residual else attended

    def own_values(self, x: Tensor) -> Tensor:
        """Return O(v) of tokens float (B, N, C)."""
        block = self.clip.blocks[-1]
        return block.ls_1(block.attn.out_proj(self.clip.values(block, block.ln_1(x))))


class MaskCLIPFreeCP(MaskCLIP):
    """Run O(v) through the feed-forward without the residual stream x, as FreeCP's code does under this name.

    Code: chenqi1126/FreeCP 6946aa7.
    """

    Params = NoParams

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the patch tokens O(v) + FFN(O(v))."""
        return self.clip.feed_forward(self.clip.blocks[-1], self.own_values(x[:, 1:]))
