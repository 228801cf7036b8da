"""ProxyCLIP: DINO features decide which CLIP values are mixed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Batch, Method, PatchFeatures
from ovbench.methods.declarations import ProxyCLIPDeclaration


class ProxyCLIP(ProxyCLIPDeclaration, Method):
    """Apply the attention of DINO to the values of CLIP's last block, without residual and feed-forward.

    Paper: Lan et al., "ProxyCLIP", ECCV 2024. Code: mc-lan/ProxyCLIP e7b767f.
    All heads have the same weights. The features are on the grid of DINO, L = gh * gw.
    """

    windowwise = True

    def encode(self, batch: Batch) -> PatchFeatures:
        """Return features float (B, L, D) of the windows on the grid of DINO."""
        proxy, values, grid = self.proxies_and_values(batch)
        similarity = proxy @ proxy.mT  # S, (B, L, L)
        batch.note("dino_similarity", similarity)
        return PatchFeatures(self.project_mixed(self.attention(similarity) @ values), grid)

    def proxies_and_values(self, batch: Batch) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Return DINO's tokens (B, L, C_dino), normalised, CLIP's values (B, L, C) on DINO's grid, and the grid."""
        proxy, grid = self.dino.last_tokens(self.seen_by(self.dino, batch.windows))
        batch.note("dino_feature", proxy)
        tokens, clip_grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(tokens)  # (B, 1 + N, C), N patches of the CLIP grid
        batch.note("tokens_before_last", x)
        last = self.clip.blocks[-1]
        v = self.clip.values(last, last.ln_1(x[:, 1:])).mT.unflatten(2, clip_grid)  # (B, C, h, w)
        v = F.interpolate(v, grid, mode="bilinear", align_corners=False).flatten(2).mT  # (B, L, C)
        return F.normalize(proxy, dim=-1), v, grid

    def project_mixed(self, mixed: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return mixed values in the joint space.

        Args:
            mixed: float (B, L, C), before the output projection of the last block.
            residual: float (B, L, C), tokens before the last block, None to drop them and the feed-forward.

        Returns:
            float (B, L, D).
        """
        last = self.clip.blocks[-1]
        attended = last.ls_1(last.attn.out_proj(mixed))
        return self.clip.project(attended if residual is None else self.clip.feed_forward(last, residual + attended))

    def attention(self, similarity: Tensor) -> Tensor:
        """Return the attention weights, float (B, L, L), of cosines float (B, L, L)."""
        return proxy_attention(similarity, self.params.beta, self.params.gamma)


def proxy_attention(similarity: Tensor, beta: float, gamma: float) -> Tensor:
    """Return softmax((S - beta mean(S)) gamma) over rows, without the negative entries.

    A patch always attends to itself. ProxyCLIP's code gives NaN for a row without entries (a flat window).

    Args:
        similarity: S, float (B, L, L), cosines; the mean is over one window.
        beta: Factor of the mean.
        gamma: Factor of the remaining logits.

    Returns:
        float (B, L, L).
    """
    excess = (similarity - beta * similarity.mean((1, 2), keepdim=True)) * gamma
    itself = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    return excess.masked_fill((excess < 0) & ~itself, -torch.inf).softmax(-1)
