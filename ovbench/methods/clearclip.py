"""ClearCLIP (Lan et al., ECCV 2024, mc-lan/ClearCLIP ad68a40): the last block without residual and feed-forward."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.methods.last_block import LastBlock, NoResidual


class ClearCLIP(LastBlock):
    """Attention weights softmax(q q^T); the block's output is the attention alone."""

    Params = NoResidual

    def mix(self, heads: Heads, grid: tuple[int, int]) -> Tensor:
        return F.scaled_dot_product_attention(heads.q, heads.q, heads.v)
