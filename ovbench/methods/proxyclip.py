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
        """Return features float (B, L, C) of the windows on the grid of DINO."""
        proxy, grid = self.dino.last_tokens(self.seen_by(self.dino, batch.windows))  # (B, L, C_dino)
        batch.note("dino_feature", proxy)
        proxy = F.normalize(proxy, dim=-1)
        similarity = proxy @ proxy.mT  # S, (B, L, L)
        batch.note("dino_similarity", similarity)

        tokens, clip_grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(tokens)  # (B, 1 + N, C), N patches of the CLIP grid
        batch.note("tokens_before_last", x)
        last = self.clip.blocks[-1]
        v = self.clip.values(last, last.ln_1(x[:, 1:])).mT.unflatten(2, clip_grid)  # (B, C, h, w)
        v = F.interpolate(v, grid, mode="bilinear", align_corners=False).flatten(2).mT  # (B, L, C)
        mixed = last.ls_1(last.attn.out_proj(self.attention(similarity) @ v))
        return PatchFeatures(self.clip.project(mixed), grid)

    def attention(self, similarity: Tensor) -> Tensor:
        """Return the attention weights, float (B, L, L), of cosines float (B, L, L)."""
        return proxy_attention(similarity, self.params.beta, self.params.gamma)


def proxy_attention(similarity: Tensor, beta: float, gamma: float) -> Tensor:
    """Return softmax((S - beta mean(S)) gamma) over rows, without the negative entries.

    A patch always attends to itself. ProxyCLIP's code gives NaN for a row without entries (a flat window).

    Args:
        similarity: S, float (B, L, L), cosines; the mean is over one window.
        beta: factor of the mean.
        gamma: factor of the remaining logits.

    Returns:
        float (B, L, L).
    """
    excess = (similarity - beta * similarity.mean((1, 2), keepdim=True)) * gamma
    itself = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    return excess.masked_fill((excess < 0) & ~itself, -torch.inf).softmax(-1)
