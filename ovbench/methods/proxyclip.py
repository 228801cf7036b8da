"""ProxyCLIP (Lan et al., ECCV 2024, mc-lan/ProxyCLIP e7b767f): DINO tells which of CLIP's values to mix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Batch, Method, Needs, PatchFeatures


@dataclass(frozen=True)
class ProxyCLIPParams:
    """A pair of patches attends where its similarity exceeds ``beta`` times the mean; ``gamma`` sharpens the rest."""

    beta: float = 1.2
    gamma: float = 3.0


class ProxyCLIP(Method):
    """The last block: proxy attention on CLIP's values, for all heads alike, without residual and feed-forward. The
    features lie on the grid of DINO."""

    Params = ProxyCLIPParams
    needs: ClassVar[Needs] = Needs(backbones=("clip", "dino"))
    windowwise = True

    def encode(self, batch: Batch) -> PatchFeatures:
        proxy, grid = self.dino.last_tokens(self.seen_by(self.dino, batch.windows))
        batch.note("dino_feature", proxy)
        proxy = F.normalize(proxy, dim=-1)
        similarity = proxy @ proxy.mT  # S, f[b, L, L]
        batch.note("dino_similarity", similarity)

        tokens, clip_grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(tokens)
        batch.note("tokens_before_last", x)
        last = self.clip.blocks[-1]
        v = self.clip.values(last, last.ln_1(x[:, 1:])).mT.unflatten(2, clip_grid)
        v = F.interpolate(v, grid, mode="bilinear", align_corners=False).flatten(2).mT  # f[b, L, c]
        mixed = last.ls_1(last.attn.out_proj(self.attention(similarity) @ v))
        return PatchFeatures(self.clip.project(mixed), grid)

    def attention(self, similarity: Tensor) -> Tensor:
        """softmax of (S - beta mean(S)) gamma over its entries that are not negative. A patch always attends to itself,
        which matters only in a window so even that its row would be empty."""
        excess = (similarity - self.params.beta * similarity.mean((1, 2), keepdim=True)) * self.params.gamma
        itself = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
        return excess.masked_fill((excess < 0) & ~itself, -torch.inf).softmax(-1)
