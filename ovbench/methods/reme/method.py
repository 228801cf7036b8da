"""ReME (Xuan et al., ICCV 2025, arXiv 2506.21233): segments get the labels of similar segments in a reference set.

There is no official code; [D] marks a choice that the paper leaves open. Symbols: K segments of the image; M reference
segments, N reference labels, O their binary matrix (M, N); Q queries, C classes; D1 visual and D2 text width. All
embeddings are normalised here, so their stored length does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.base import Loaded
from ovbench.methods.base import Backbones, Batch, Method, Queries
from ovbench.methods.declarations import ReMEDeclaration
from ovbench.methods.ops import Decision, Pad
from ovbench.methods.reme.approximate_search import FaissIndex, measure_recall
from ovbench.methods.reme.pooling import segment_embeddings
from ovbench.methods.reme.reference_bank import Encoder, ReferenceBank
from ovbench.methods.reme.search import Nearest, nearest, similarities
from ovbench.regions.cover import complete
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.upload import upload

LABELS_AT_ONCE = 8192
WEIGHTS_AT_ONCE = 1 << 24  # elements of the gathered rows in the top-K form


class Segments(NamedTuple):
    """S_test, float (K, D1), and the segment of each pixel of the original image, int64 (H, W)."""

    embeddings: Tensor
    map: Tensor


class ReME(ReMEDeclaration, Method):
    """Label segments of the whole image, without windows (crop 0)."""

    def __init__(self, backbones: Backbones, params: Any = None):
        super().__init__(backbones, params)
        if self.reference.visual_width != self.dinov2.width:
            raise InputError(
                f"the reference set has visual features of width {self.reference.visual_width}, "
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
        """Index of the reference segments, built on first use."""
        return FaissIndex(self.reference.segments)

    def approximations(self) -> dict[str, Any]:
        """Return the settings of the FAISS search and its recall of the true ``visual_topk`` segments."""
        p = self.params
        if p.search == "exact":
            return {}
        (found,) = measure_recall(self.reference, p.visual_topk, (p.probes,), index=self.index)
        return {"search": {"by": "faiss", "cells": self.index.cells, "probes": found.probes, "topk": found.k,
                           "recall": round(found.recall, 4), "measured_on": found.rows}}  # fmt: skip

    def map_queries(self, queries: Queries) -> Queries:
        """Replace the embeddings by R = O A2, float (M, Q), the affinities of reference segments (equation 2)."""
        bank = self.reference
        a2 = class_affinity(bank.labels, queries.embeddings, self.params.text_scale)
        return queries._replace(embeddings=bank.spread(a2))

    def encode(self, batch: Batch) -> Segments:
        """Return the embeddings of the segments (equation A1); uncovered areas become segments, too (`complete`)."""
        if len(batch.windows) != 1 or batch.host_regions is None:
            raise UsageError("reme labels whole images", where="protocol", fix="leave crop at 0")
        ids, rank = np.unique(complete(batch.host_regions), return_inverse=True)
        segment = upload(rank.reshape(batch.host_regions.shape), batch.windows.device)
        tokens = patch_tokens(self.dinov2, batch.windows)
        return Segments(segment_embeddings(*tokens, segment, len(ids), self.reference.zeta), segment)

    def score(self, features: Segments, queries: Queries) -> Tensor:
        """Return P_test, float (1, C, H, W): P_seg = A1 A2 with the best query of each class [D], then equation 3.

        As the segments do not overlap, equation 3 is a look-up.
        """
        p_query = self.look_up(features.embeddings, queries.embeddings)
        p_seg = best_query(p_query, queries.class_index, queries.classes[-1] + 1)
        return p_seg.T[:, features.map][None]

    def look_up(self, segments: Tensor, affinity: Tensor) -> Tensor:
        """Return softmax_M(beta_v S_test S_ref^T) R, float (K, Q), with R = ``affinity``."""
        p, bank = self.params, self.reference
        if p.search == "faiss":
            return weighted(self.index.nearest(segments, p.visual_topk, p.probes), affinity, p.visual_scale)
        if p.visual_topk:
            return weighted(nearest(segments, bank, p.visual_topk, p.block), affinity, p.visual_scale)
        return retrieve(segments, bank, affinity, p.visual_scale, p.block)

    def window_scores(self, scores: Tensor, size: tuple[int, int], pad: Pad) -> Tensor:
        """Return the scores unchanged; they have the size of the image."""
        return scores

    def probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Return P_test, float (C, H, W), scaled to sum 1 over the classes, for the background threshold [D]."""
        return scores / scores.sum(0)


def patch_tokens(dinov2: Any, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return the tokens of the last layer of one image, and their grid.

    The image is first resized, each side to the nearest multiple of the patch [D].

    Args:
        dinov2: A `Dinov2Vision`.
        images: float (1, 3, h, w).

    Returns:
        float (gh*gw, D1), and (gh, gw).
    """
    sides = tuple(max(round(side / dinov2.patch), 1) * dinov2.patch for side in images.shape[-2:])
    if sides != tuple(images.shape[-2:]):
        images = F.interpolate(images, sides, mode="bilinear", align_corners=False)
    tokens = dinov2(images)
    return tokens.patches[0], tokens.grid


def class_affinity(labels: Tensor, queries: Tensor, scale: float) -> Tensor:
    """Return A2 = softmax_Q(beta_t L_ref L_test^T) of equation 2.

    Args:
        labels: L_ref, float (N, D2).
        queries: L_test, float (Q, D2).
        scale: beta_t.

    Returns:
        float (N, Q).
    """
    queries = F.normalize(queries.float(), dim=-1)
    chunks = (F.normalize(chunk.float(), dim=-1) for chunk in labels.split(LABELS_AT_ONCE))
    return torch.cat([(scale * chunk @ queries.T).softmax(1) for chunk in chunks])


def retrieve(segments: Tensor, bank: ReferenceBank, values: Tensor, scale: float, block: int = 65536) -> Tensor:
    """Return softmax_M(beta_v S_test S_ref^T) V, float (K, V), exact and block by block.

    The sums are rescaled if a block has a larger maximum. V = O gives A1 of equation 1. V = R = O A2 gives P_seg
    without A1, because (W O) A2 = W (O A2).

    Args:
        segments: S_test, float (K, D1).
        bank: The reference set.
        values: V, float (M, V).
        scale: beta_v.
        block: Reference segments that are compared at once.
    """
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
    """Return the result of `retrieve`, float (K, V), with a softmax over the reference segments in ``found`` only.

    Args:
        found: The most similar reference segments.
        values: V, float (M, V).
        scale: beta_v.
    """
    weights = (scale * found.cosine).masked_fill(found.row < 0, -torch.inf).softmax(1)
    rows = found.row.clamp(min=0)
    step = max(WEIGHTS_AT_ONCE // max(rows.shape[1] * values.shape[1], 1), 1)
    chunks = zip(weights.split(step), rows.split(step), strict=True)
    return torch.cat([torch.einsum("kn,knv->kv", w, values[r].float()) for w, r in chunks])


def best_query(p_query: Tensor, class_index: Tensor, classes: int) -> Tensor:
    """Return the largest value over the queries of each class: float (K, Q) to (K, C)."""
    best = p_query.new_zeros(len(p_query), classes)
    return best.scatter_reduce(1, class_index.expand_as(p_query), p_query, "amax", include_self=True)
