"""MaskCLIP (Zhou et al., ECCV 2022, chongzhou96/MaskCLIP 245d31f): every token of the last block keeps its own value.

Later papers use the name for shorter forms; ``residual=false`` is the form that ClearCLIP's code runs by default.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovbench.methods.base import Batch, Method, PatchFeatures


@dataclass(frozen=True)
class MaskCLIPParams:
    """``residual``: keep the residual stream and the feed-forward of the last block, as the original does."""

    residual: bool = True


class MaskCLIP(Method):
    """The last block's attention weights are the identity, so it is never computed: attention = O(v)."""

    Params = MaskCLIPParams

    def encode(self, batch: Batch) -> PatchFeatures:
        tokens, grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(tokens)
        batch.note("tokens_before_last", x)
        last, x = self.clip.blocks[-1], x[:, 1:]
        attended = last.ls_1(last.attn.out_proj(self.clip.values(last, last.ln_1(x))))
        x = self.clip.feed_forward(last, x + attended) if self.params.residual else attended
        return PatchFeatures(self.clip.project(x), grid)
