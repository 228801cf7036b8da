"""NACLIP: attention to the neighbourhood of each patch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.methods.declarations import NACLIPDeclaration
from ovbench.methods.last_block import LastBlock


class NACLIP(NACLIPDeclaration, LastBlock):
    """Attend by key-key similarity plus a Gaussian of the distance, without residual and feed-forward.

    Paper: Hajimiri et al., "Pay Attention to Your Neighbours", WACV 2025. Code: sinahmr/NACLIP 0cac3a6.
    The published numbers include PAMR, which is a setting of the protocol here (``refine = "pamr"``).
    """

    enlarges_once = False  # the official code resizes to the resized image first, even without windows

    def mix(self, heads: Heads, grid: tuple[int, int]) -> Tensor:
        """Return softmax(k k^T + G) v, with the Gaussian G added after the scale of the attention."""
        nearness = neighbourhood(grid, self.params.gaussian_std, heads.k.device).to(heads.k)
        return F.scaled_dot_product_attention(heads.k, heads.k, heads.v, attn_mask=nearness)


def neighbourhood(grid: tuple[int, int], std: float, device: torch.device | None = None) -> Tensor:
    """Return the Gaussian term G of the attention logits.

    Args:
        grid: (gh, gw) of the patches.
        std: Standard deviation in patches.
        device: Device of the result.

    Returns:
        float32 (1 + N, 1 + N), class token first: exp(-distance^2 / (2 std^2)) between patches, 0 for the class token.
    """
    sides = (torch.arange(side, dtype=torch.float32, device=device) for side in grid)
    y, x = torch.meshgrid(*sides, indexing="ij")
    cells = torch.stack([y.flatten(), x.flatten()], -1)
    squared = (cells[:, None] - cells).square().sum(-1)  # (N, N)
    return F.pad(torch.exp(-squared / (2 * std**2)), (1, 0, 1, 0))
