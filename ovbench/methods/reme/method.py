"""ReME (Xuan et al., ICCV 2025, arXiv 2506.21233): segments labelled by looking up their like in a reference set.

There is no official code; [D] marks what the paper leaves open. Symbols: k segments of the image; m reference segments,
n reference labels, O their binary matrix f[m, n]; Q queries, c classes; d1 visual, d2 text width. Every embedding is
brought to length 1 here, whatever its length in storage.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.base import Loaded
from ovbench.methods.base import Backbones, Batch, Method, Needs, Queries
from ovbench.methods.ops import Decision, Pad
from ovbench.methods.reme.approximate_search import FaissIndex, measure_recall
from ovbench.methods.reme.pooling import segment_embeddings
from ovbench.methods.reme.reference_bank import Encoder, ReferenceBank
from ovbench.methods.reme.search import Nearest, nearest, similarities
from ovbench.regions.base import rank_ids
from ovbench.regions.cover import complete
from ovbench.utils.errors import InputError, UsageError

LABELS_AT_ONCE = 8192
WEIGHTS_AT_ONCE = 1 << 24  # elements of the gathered rows in the top-K form


@dataclass(frozen=True)
class ReMEParams:
    """``visual_scale``, ``text_scale``: what cosines are multiplied with before the softmax of equations 1 and 2 [D];
    the paper shows none, which is 1, and then every segment gets the same label. ``visual_topk``: the softmax sees only
    so many most similar reference segments (0: all). ``block``: reference segments compared at a time; it bounds the
    memory and changes nothing else. ``search``: "exact", or "faiss" for an approximate search of the ``visual_topk``
    among ``probes`` of the index' cells."""

    visual_scale: float = 30.0
    text_scale: float = 40.0
    visual_topk: int = 0
    block: int = 65536
    search: str = "exact"
    probes: int = 32

    def __post_init__(self) -> None:
        checks = (
            (self.visual_scale > 0 and self.text_scale > 0, "visual_scale and text_scale must be positive"),
            (self.visual_topk >= 0, "visual_topk must be 0 (all) or more"),
            (self.block > 0 and self.probes > 0, "block and probes must be positive"),
            (self.search in ("exact", "faiss"), 'search must be "exact" or "faiss"'),
            (self.search == "exact" or self.visual_topk > 0, "faiss finds the most similar few: give visual_topk"),
        )
        for holds, message in checks:
            if not holds:
                raise UsageError(message, where="parameters of reme")


class Segments(NamedTuple):
    """S_test f[k, d1], and which segment each pixel of the original image belongs to, i64[H, W]."""

    embeddings: Tensor
    map: Tensor


class ReME(Method):
    """The unit is a segment of the whole image: the protocol has no windows (crop 0)."""

    Params = ReMEParams
    needs: ClassVar[Needs] = Needs(backbones=("clip", "dinov2", "reference"), regions=True)
    sees = "dinov2"

    def __init__(self, backbones: Backbones, params: Any = None):
        super().__init__(backbones, params)
        if self.reference.visual_width != self.dinov2.width:
            raise InputError(
                f"the reference set holds visual features of width {self.reference.visual_width}, "
                f"but the encoder gives {self.dinov2.width}",
                fix="use the encoder that the set was built with, or build the set again",
            )

    @classmethod
    def check_backbones(cls, loaded: Mapping[str, Loaded], protocol: Any) -> None:
        """Check that the set was built with the encoders and settings in use."""
        super().check_backbones(loaded, protocol)
        used = {name: Encoder(one.spec, one.sha256) for name, one in loaded.items()}
        loaded["reference"].vision.require(used, protocol)

    @functools.cached_property
    def index(self) -> FaissIndex:
        """Of the reference segments, built on first use."""
        return FaissIndex(self.reference.segments)

    def approximations(self) -> dict[str, Any]:
        """Of FAISS: its index, and the share of the true ``visual_topk`` that it finds."""
        p = self.params
        if p.search == "exact":
            return {}
        (found,) = measure_recall(self.reference, p.visual_topk, (p.probes,), index=self.index)
        return {"search": {"by": "faiss", "cells": self.index.cells, "probes": found.probes, "topk": found.k,
                           "recall": round(found.recall, 4), "measured_on": found.rows}}  # fmt: skip

    def map_queries(self, queries: Queries) -> Queries:
        """R = O A2 of equation 2, f[m, Q]: the reference segments' affinities to the queries, once for a vocabulary."""
        bank = self.reference
        a2 = class_affinity(bank.labels, queries.embeddings, self.params.text_scale)
        return queries._replace(embeddings=bank.spread(a2))

    def encode(self, batch: Batch) -> Segments:
        """Equation A1 on the segments of the image; those that no mask covers become segments, too (``complete``)."""
        if len(batch.windows) != 1 or batch.region_map is None:
            raise UsageError("reme labels whole images", where="protocol", fix="leave crop at 0")
        ids = torch.from_numpy(complete(batch.region_map.cpu().numpy())).to(batch.windows.device)
        ranks = rank_ids(ids[None].long())
        tokens = patch_tokens(self.dinov2, batch.windows)
        return Segments(
            segment_embeddings(*tokens, ranks.rank[0], int(ranks.count), self.reference.zeta), ranks.rank[0]
        )

    def score(self, features: Segments, queries: Queries) -> Tensor:
        """P_test f[1, c, H, W]: P_seg = A1 A2, the best query of each class [D], then equation 3, which on a partition
        is a look-up."""
        p_query = self.look_up(features.embeddings, queries.embeddings)
        p_seg = best_query(p_query, queries.class_index)
        return p_seg.T[:, features.map][None]

    def look_up(self, segments: Tensor, affinity: Tensor) -> Tensor:
        """softmax_m(beta_v S_test S_ref^T) R, f[k, Q]; R is ``affinity``."""
        p, bank = self.params, self.reference
        if p.search == "faiss":
            return weighted(self.index.nearest(segments, p.visual_topk, p.probes), affinity, p.visual_scale)
        if p.visual_topk:
            return weighted(nearest(segments, bank, p.visual_topk, p.block), affinity, p.visual_scale)
        return retrieve(segments, bank, affinity, p.visual_scale, p.block)

    def window_scores(self, scores: Tensor, size: tuple[int, int], pad: Pad) -> Tensor:
        return scores

    def probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """P_test f[c, H, W], of sum 1 over the classes, so that a threshold for the background has a meaning [D]."""
        return scores / scores.sum(0)


def patch_tokens(dinov2: Any, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens f[gh*gw, d1] of the last layer of one image f[1, 3, h, w] and their grid; both sides are first brought to
    the nearest multiple of the patch [D]."""
    sides = tuple(max(round(side / dinov2.patch), 1) * dinov2.patch for side in images.shape[-2:])
    if sides != tuple(images.shape[-2:]):
        images = F.interpolate(images, sides, mode="bilinear", align_corners=False)
    tokens = dinov2(images)
    return tokens.patches[0], tokens.grid


def class_affinity(labels: Tensor, queries: Tensor, scale: float) -> Tensor:
    """A2 = softmax_Q(beta_t L_ref L_test^T), equation 2: f[n, Q] from f[n, d2] and f[Q, d2]."""
    queries = F.normalize(queries.float(), dim=-1)
    chunks = (F.normalize(chunk.float(), dim=-1) for chunk in labels.split(LABELS_AT_ONCE))
    return torch.cat([(scale * chunk @ queries.T).softmax(1) for chunk in chunks])


def retrieve(segments: Tensor, bank: ReferenceBank, values: Tensor, scale: float, block: int = 65536) -> Tensor:
    """Equation 1 and its product with ``values`` f[m, v]: softmax_m(beta_v S_test S_ref^T) values, f[k, v].

    Exact, in one pass: the sums are rescaled whenever a block raises the maximum. With values O it is A1 itself; as
    (W O) A2 = W (O A2), with values R it is P_seg, and A1 is never formed."""
    maximum = segments.new_full((len(segments), 1), -torch.inf)
    total, result = torch.zeros_like(maximum), segments.new_zeros(len(segments), values.shape[1])
    for start, cosines in similarities(segments, bank, block):
        logits = scale * cosines
        higher = torch.maximum(maximum, logits.amax(1, keepdim=True))
        shrink, weights = (maximum - higher).exp(), (logits - higher).exp()
        total = total * shrink + weights.sum(1, keepdim=True)
        result = result * shrink + weights @ values[start : start + block].float()
        maximum = higher
    return result / total


def weighted(found: Nearest, values: Tensor, scale: float) -> Tensor:
    """As `retrieve`, with the softmax over the reference segments ``found`` alone: f[k, v]."""
    weights = (scale * found.cosine).masked_fill(found.row < 0, -torch.inf).softmax(1)
    rows = found.row.clamp(min=0)
    step = max(WEIGHTS_AT_ONCE // max(rows.shape[1] * values.shape[1], 1), 1)
    chunks = zip(weights.split(step), rows.split(step), strict=True)
    return torch.cat([torch.einsum("kn,knv->kv", w, values[r].float()) for w, r in chunks])


def best_query(p_query: Tensor, class_index: Tensor) -> Tensor:
    """The best of each class's queries: f[k, Q] to f[k, c]."""
    classes = p_query.new_zeros(len(p_query), int(class_index.max()) + 1)
    return classes.scatter_reduce(1, class_index.expand_as(p_query), p_query, "amax", include_self=True)
