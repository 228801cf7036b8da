"""ClearCLIP: the last block without residual and feed-forward."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.methods.declarations import ClearCLIPDeclaration
from ovbench.methods.last_block import LastBlock


class ClearCLIP(ClearCLIPDeclaration, LastBlock):
    """Attend by query-query similarity in the last block, without residual and feed-forward.

    Paper: Lan et al., "ClearCLIP", ECCV 2024. Code: mc-lan/ClearCLIP ad68a40.
    """

    def mix(self, heads: Heads, grid: tuple[int, int]) -> Tensor:
        """Return softmax(q q^T) v."""
        return F.scaled_dot_product_attention(heads.q, heads.q, heads.v)
