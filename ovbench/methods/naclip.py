"""NACLIP (Hajimiri et al., WACV 2025, sinahmr/NACLIP 0cac3a6): pay attention to your neighbours.

Its published numbers include PAMR, which is a setting of the protocol here (``refine = "pamr"``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.methods.last_block import LastBlock, NoResidual


@dataclass(frozen=True)
class NACLIPParams(NoResidual):
    """``gaussian_std``: width of the neighbourhood, in patches. ``residual``: the official code's "vanilla"
    architecture instead of its "reduced" one."""

    gaussian_std: float = 5.0


class NACLIP(LastBlock):
    """Attention weights softmax(k k^T + Gaussian of the distance); the block's output is the attention alone."""

    Params = NACLIPParams
    enlarges_once = False  # the official code brings scores to the resized image first, without windows too

    def mix(self, heads: Heads, grid: tuple[int, int]) -> Tensor:
        nearness = neighbourhood(grid, self.params.gaussian_std, heads.k.device).to(heads.k)
        return F.scaled_dot_product_attention(heads.k, heads.k, heads.v, attn_mask=nearness)


def neighbourhood(grid: tuple[int, int], std: float, device: torch.device | None = None) -> Tensor:
    """What is added to the attention logits f[n, n], class token first: exp(-distance^2 / (2 std^2)) between patches,
    zero for the class token."""
    sides = (torch.arange(side, dtype=torch.float32, device=device) for side in grid)
    y, x = torch.meshgrid(*sides, indexing="ij")
    cells = torch.stack([y.flatten(), x.flatten()], -1)
    squared = (cells[:, None] - cells).square().sum(-1)
    return F.pad(torch.exp(-squared / (2 * std**2)), (1, 0, 1, 0))
