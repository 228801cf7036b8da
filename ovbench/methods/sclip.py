"""SCLIP: correlative self-attention in the last block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.methods.base import Queries
from ovbench.methods.declarations import SCLIPDeclaration
from ovbench.methods.last_block import LastBlock
from ovbench.methods.ops import Decision, largest
from ovbench.methods.params import NoParams
from ovbench.utils.errors import warn_once


class SCLIP(SCLIPDeclaration, LastBlock):
    """Attend by query-query plus key-key similarity in the last block; residual and feed-forward stay.

    Paper: Wang et al., "SCLIP", ECCV 2024. Code: wangf3014/SCLIP b56bd30.
    """

    def mix(self, heads: Heads, grid: tuple[int, int]) -> Tensor:
        """Return (softmax(q q^T) + softmax(k k^T)) v; the rows of the weights sum to 2, as in the official code."""
        q, k, v = heads
        return F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)

    @property
    def pixelwise(self) -> bool:
        """Return whether pixels are independent; the area threshold counts pixels of the whole image."""
        return not self.params.area_thd

    @property
    def best_query_wins(self) -> bool:
        """Return whether no class can be set to zero."""
        return type(self).probabilities is SCLIP.probabilities and not self.params.area_thd

    def map_queries(self, queries: Queries) -> Queries:
        """Warn once if the area threshold has no effect."""
        if self.params.area_thd and queries.background is None:
            warn_once(
                f"area_thd = {self.params.area_thd:g} is not used, because the dataset has no background class; "
                "name one (background in the card), or set area_thd=0"
            )
        return queries

    def probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Return class probabilities float (K, H, W), with small classes set to zero."""
        probabilities = super().probabilities(scores, queries, decision)
        if not self.params.area_thd or queries.background is None:
            return probabilities
        return without_small_classes(probabilities, self.params.area_thd, queries.background)


class SCLIPFreeCP(SCLIP):
    """Run the attention through the feed-forward without the residual stream x, as FreeCP's code does under this name.

    Code: chenqi1126/FreeCP 6946aa7. It has no area threshold.
    """

    Params = NoParams

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the tokens a + FFN(a), with a the attention output."""
        block = self.clip.blocks[-1]
        heads = self.clip.project_heads(block, block.ln_1(x))
        return self.clip.feed_forward(block, self.clip.merge_heads(block, self.mix(heads, grid)))

    pixelwise = True
    best_query_wins = LastBlock.best_query_wins
    map_queries = LastBlock.map_queries
    probabilities = LastBlock.probabilities


def without_small_classes(probabilities: Tensor, area_thd: float, background: int) -> Tensor:
    """Set the probabilities of small foreground classes to zero.

    Args:
        probabilities: float (K, H, W) of the K classes.
        area_thd: A foreground class stays if it wins more than this fraction of all pixels won by foreground classes.
        background: Index of the background class, which always stays.

    Returns:
        float (K, H, W).
    """
    winners = largest(probabilities).row.flatten()
    won = winners.new_zeros(len(probabilities)).index_add_(0, winners, torch.ones_like(winners))
    stays = won > area_thd * (won.sum() - won[background])
    stays[background] = True
    return probabilities * stays[:, None, None]
