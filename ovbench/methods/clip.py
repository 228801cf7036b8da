"""Plain CLIP: the patch tokens of the unmodified tower (Radford et al., ICML 2021), the floor of every comparison."""

from __future__ import annotations

from ovbench.methods.base import Batch, Method, PatchFeatures


class CLIP(Method):
    """Every block is ordinary; the patch tokens are projected as the class token is."""

    def encode(self, batch: Batch) -> PatchFeatures:
        tokens, grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(tokens)
        batch.note("tokens_before_last", x)
        last = self.clip.blocks[-1]
        x = self.clip.feed_forward(last, x + self.clip.attention(last, last.ln_1(x)))
        return PatchFeatures(self.clip.project(x[:, 1:]), grid)
