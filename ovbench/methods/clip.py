"""Plain CLIP: the lowest baseline of every comparison."""

from __future__ import annotations

from torch import Tensor

from ovbench.methods.last_block import LastBlock
from ovbench.methods.params import NoParams


class CLIP(LastBlock):
    """Project the patch tokens of the unchanged tower as the class token is projected.

    Paper: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
    """

    Params = NoParams

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Run the last block unchanged."""
        block = self.clip.blocks[-1]
        return self.clip.feed_forward(block, x + self.clip.attention(block, block.ln_1(x)))
