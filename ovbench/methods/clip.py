"""Plain CLIP: the patch tokens of the unmodified tower (Radford et al., ICML 2021), the floor of every comparison."""

from __future__ import annotations

from torch import Tensor

from ovbench.methods.base import NoParams
from ovbench.methods.last_block import LastBlock


class CLIP(LastBlock):
    """Every block is ordinary; the patch tokens are projected as the class token is."""

    Params = NoParams

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        block = self.clip.blocks[-1]
        return self.clip.feed_forward(block, x + self.clip.attention(block, block.ln_1(x)))
