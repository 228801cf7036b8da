"""GEM: a path of self-self attention beside the upper blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.backbones.clip import Watch
from ovbench.methods.base import PatchFeatures
from ovbench.methods.declarations import GEMDeclaration
from ovbench.methods.last_block import LastBlock


class GEM(GEMDeclaration, LastBlock):
    """Add the self-self attention of the upper blocks in a path g beside the unchanged stream x.

    Paper: Bousselham et al., "Grounding Everything", CVPR 2024. Code: WalBouss/GEM 5fa677c.
    g starts as the x that enters the first of these blocks. No feed-forward is added to g.
    """

    heavy: ClassVar[tuple[str, ...]] = ("self_self_path",)  # see `ovbench.inference.precision`
    smooth_positions = True

    def dense(
        self, windows: Tensor, note: Callable[[str, Any], None] = lambda name, value: None, watch: Watch | None = None
    ) -> PatchFeatures:
        """Return the patch features of windows float (B, 3, h, w); see `LastBlock.dense`."""
        clip = self.clip
        tokens, grid = clip.embed(windows, smooth_positions=self.smooth_positions)
        first = max(0, clip.layers - (self.params.depth - 1))
        g = self.self_self_path(clip.trunk(tokens, until=first, watch=watch), first, note, watch)
        return PatchFeatures(clip.project(g[:, 1:]), grid)

    def self_self_path(
        self, x: Tensor, first: int, note: Callable[[str, Any], None], watch: Watch | None = None
    ) -> Tensor:
        """Return the path g, float (B, 1 + N, C), after all blocks from the tokens x that enter block ``first``."""
        clip, g = self.clip, x
        for number, block in enumerate(clip.blocks[first:], first):
            normed = block.ln_1(x)  # (B, 1 + N, C)
            term = self.self_self(block, normed)
            g = g + term if self.params.residual else term
            if number == clip.layers - 1:
                note("tokens_before_last", x)
            else:
                x = clip.feed_forward(block, x + clip.attention(block, normed, watch))
        return g

    def self_self(self, block: nn.Module, normed: Tensor) -> Tensor:
        """Return the mean of v v^T, k k^T and q q^T attention on the values of tokens (B, 1 + N, C) after ``ln_1``."""
        q, k, v = self.clip.project_heads(block, normed)
        together = 1 if v.device.type == "cpu" else 3  # streams at once: memory against launches
        tau = self.params.temperature
        if tau is None:
            tau = normed.norm(dim=-1).mean(-1)[:, None, None, None] * v.shape[-1] ** -0.5  # one per window
            tau = tau.repeat(together, 1, 1, 1)
        values = v.repeat(together, 1, 1, 1)
        mixed = [self._attend(z, values, tau) for z in torch.cat([v, k, q]).split(len(values))]
        return self.clip.merge_heads(block, torch.cat(mixed).unflatten(0, (3, -1)).sum(0) / 3)

    def _attend(self, z: Tensor, v: Tensor, tau: Tensor | float) -> Tensor:
        """Return softmax(tau z z^T) v for normalised z, after z attended to itself."""
        z = F.normalize(z, dim=-1)
        for _ in range(self.params.iterations):
            z = F.normalize(F.scaled_dot_product_attention(z * tau, z, z, scale=1.0), dim=-1)
        return F.scaled_dot_product_attention(z * tau, z, v, scale=1.0)
