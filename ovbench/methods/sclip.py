"""SCLIP (Wang et al., ECCV 2024, wangf3014/SCLIP b56bd30): correlative self-attention in the last block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.inference.decision import Decision, largest
from ovbench.methods.base import NoParams, Queries
from ovbench.methods.last_block import LastBlock, Residual
from ovbench.utils.errors import say_once


@dataclass(frozen=True)
class SCLIPParams(Residual):
    """``area_thd``: a class other than the background must win more than this share of the pixels that such classes
    win, or it disappears from the image (0, or no background: every class stays)."""

    area_thd: float = 0.0


class SCLIP(LastBlock):
    """Attention weights softmax(q q^T) + softmax(k k^T), whose rows sum to two; residual and feed-forward stay."""

    Params = SCLIPParams

    def mix(self, heads: Heads, grid: tuple[int, int]) -> Tensor:
        q, k, v = heads
        return F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)

    @property
    def pixelwise(self) -> bool:
        return not self.params.area_thd

    def map_queries(self, queries: Queries) -> Queries:
        if self.params.area_thd and queries.background is None:
            say_once(
                f"area_thd = {self.params.area_thd:g} is not used: the classes have no background, to which small ones "
                "would lose; name one (background in the card), or set area_thd=0"
            )
        return queries

    def probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        probabilities = super().probabilities(scores, queries, decision)
        if not self.params.area_thd or queries.background is None:
            return probabilities
        return without_small_classes(probabilities, self.params.area_thd, queries.background)


class SCLIPFreeCP(SCLIP):
    """What chenqi1126/FreeCP 6946aa7 runs under the name: the attention through the feed-forward, but without the
    stream x, and without an area threshold."""

    Params = NoParams

    def last(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        block = self.clip.blocks[-1]
        heads = self.clip.project_heads(block, block.ln_1(x))
        return self.clip.feed_forward(block, self.clip.merge_heads(block, self.mix(heads, grid)))

    pixelwise = True
    map_queries = LastBlock.map_queries
    probabilities = LastBlock.probabilities


def without_small_classes(probabilities: Tensor, area_thd: float, background: int) -> Tensor:
    """Class probabilities f[c, H, W] with zeros for every class but the background that wins no more than ``area_thd``
    of all pixels that are not won by the background."""
    won = torch.bincount(largest(probabilities).row.flatten(), minlength=len(probabilities))
    stays = won > area_thd * (won.sum() - won[background])
    stays[background] = True
    return probabilities * stays[:, None, None]
