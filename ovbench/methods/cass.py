"""CASS: distil the spectral graph of DINO into the last attention of CLIP.

Symbols: B windows; N = gh * gw patches of the CLIP grid; H heads of CLIP; G heads of DINO; E width of a head; R rank;
D width of the joint space; Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.backbones.dino import IMAGENET_MEAN, IMAGENET_STD
from ovbench.backbones.normalization import per_channel
from ovbench.methods.base import Batch, Queries
from ovbench.methods.cass_spectral import Principal, match_range, principal, recompose, stretch
from ovbench.methods.declarations import CASSDeclaration
from ovbench.methods.naclip import neighbourhood
from ovbench.methods.presence import Presence, PresenceFeatures
from ovbench.utils.pillow_resize import resize_like_pillow
from ovbench.utils.upload import upload

MISREAD_STD = (0.229, 0.224, 0.255)  # official inverse normalisation: ImageNet's std, but 0.255 instead of 0.225


class Pairs(NamedTuple):
    """The match of every CLIP head.

    Attributes:
        partner: int64 (B, H), index of the DINO head.
        weight: float (B, H), weight w of the pair.
    """

    partner: Tensor
    weight: Tensor


class CASS(CASSDeclaration, Presence):
    """Attend by the fused key graphs of CLIP and DINO, and move the queries towards the image.

    Paper: Kim et al., "Distilling Spectral Graph for Object-Context Aware Open-Vocabulary Semantic Segmentation",
    CVPR 2025, arXiv 2411.17150. Code: MICV-yonsei/CASS 228ecdd. Where the two differ, a parameter selects the paper's
    form.
    """

    linkage: ClassVar[str] = "ward"
    uses_fp64 = True

    # Section 3.2, spectral object-level context distillation: windows to patch features

    def encode(self, batch: Batch) -> PresenceFeatures:
        """Return patch features and the class token of the windows."""
        embedded, grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(embedded)  # (B, 1 + N, C)
        last = self.clip.blocks[-1]
        heads = self.clip.project_heads(last, last.ln_1(x))
        patches = Heads(*(projected[:, :, 1:] for projected in heads))  # each (B, H, N, E)
        weights = self.attention_logits(batch, patches, grid).softmax(-1)  # (B, H, N, N)
        mixed = self.clip.merge_heads(last, weights @ patches.v)  # without residual and feed-forward
        tokens = F.normalize(self.clip.project(mixed), dim=-1)  # (B, N, D)
        batch.note("attention", weights)
        if self.params.class_token == "image":
            presence = batch.context
        elif self.presence is None:
            presence = F.normalize(self.clip.finish_class(x, heads), dim=-1)
        else:
            presence = self.class_tokens(batch.windows)
        return PresenceFeatures(tokens, grid, presence)

    def class_tokens(self, images: Tensor) -> Tensor:
        """Return normalised class tokens (B, D') of images, from the second CLIP if it is configured."""
        tower = self.presence or self.clip
        return F.normalize(tower.class_features(self.seen_by(tower, images)), dim=-1)

    def attention_logits(self, batch: Batch, clip: Heads, grid: tuple[int, int]) -> Tensor:
        """Return the attention logits (B, H, N, N) of the last block from CLIP's patches, each (B, H, N, E)."""
        scale = clip.k.shape[-1] ** -0.5
        if self.params.attention == "queries":
            return scale * clip.q @ clip.k.mT
        graph = scale * clip.k @ clip.k.mT  # A_CLIP
        if self.params.attention == "distilled":
            graph = self.distil(graph, clip.k, self.dino_keys(batch, grid), batch.note)
        return graph + neighbourhood(grid, self.params.gaussian_std, graph.device)[1:, 1:].to(graph)  # NACLIP's omega

    def distil(self, clip_graph: Tensor, k: Tensor, kd: Tensor, note: Callable[[str, Any], None]) -> Tensor:
        """Fuse A_CLIP (B, H, N, N) of keys k (B, H, N, E) with the matched graphs of DINO's keys kd (B, G, N, E)."""
        if self.params.match_ranges:
            kd = match_range(kd, k, (1, 2, 3))  # one range over all heads
        ranks = max(self.params.eigenvalues, self.params.rank or 0)
        if kd.shape == k.shape:  # on a GPU the host waits for every decomposition, so there is one
            both = principal(torch.stack([kd, k]), ranks)
            dino, clip = (Principal(*(part[number] for part in both)) for number in (0, 1))
        else:
            dino, clip = principal(kd, ranks), principal(k, ranks)
        distance = self.spectral_distance(dino.values, clip.values)
        pairs = self.match(distance)
        graph = self.low_rank(kd, dino, pairs.partner, note)
        graph.diagonal(dim1=-2, dim2=-1).zero_()
        if self.params.match_ranges:
            graph = match_range(graph, clip_graph, (2, 3))
        weight = (pairs.weight * (1 if self.params.matching == "sequential" else self.params.fusion))[..., None, None]
        fused = clip_graph.lerp(graph, weight / (weight + 1))  # (w A_DINO + A_CLIP) / (w + 1)
        for name, value in (
            ("clip_keys", k), ("dino_keys_mapped", kd), ("dino_spectrum", dino.values), ("clip_spectrum", clip.values),
            ("distance", distance), ("pairs", pairs.partner), ("dino_graph", graph), ("fused", fused),
            ("pair_weight", pairs.weight),
        ):  # fmt: skip
            note(name, value)
        return fused

    def dino_keys(self, batch: Batch, grid: tuple[int, int]) -> Tensor:
        """Return the keys of DINO's last block on the grid of CLIP, (B, G, N, E).

        A DINO as wide as CLIP is split into CLIP's number of heads.
        """
        picture = self.picture(batch) if self.params.misread_colours else self.seen_by(self.dino, batch.windows)
        keys, dino_grid = self.dino.last_keys(picture)
        count = self.clip.heads if self.dino.width == self.clip.width else self.dino.heads
        batch.note("dino_keys", keys.unflatten(2, (count, -1)).transpose(1, 2))
        keys = F.interpolate(keys.mT.unflatten(2, dino_grid), grid, mode="bilinear", align_corners=False)
        return keys.flatten(2).unflatten(1, (count, -1)).mT

    def picture(self, batch: Batch) -> Tensor:
        """Return the normalised square input (B, 3, m, m) that the official code gives to DINO.

        It inverts the normalisation with the wrong mean and std, truncates to 8 bits and resizes. The zeros of a padded
        window become ImageNet's mean colour.
        """
        wrong = [per_channel(values, batch.windows) for values in (IMAGENET_MEAN, MISREAD_STD)]
        pixels = (255 * (batch.windows * wrong[1] + wrong[0])).clamp(0, 255).to(torch.uint8)
        if self.dino.registers:
            pixels = resize_like_pillow(pixels, (self.dino.native,) * 2, "bilinear")
        else:
            pixels = resize_like_pillow(pixels, (min(pixels.shape[2:]),) * 2, "bicubic")
        batch.note("dino_input", pixels)
        mean, std = (per_channel(values, batch.windows) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (pixels / 255 - mean) / std

    def spectral_distance(self, dino: Tensor, clip: Tensor) -> Tensor:
        """Return the L1 distances (B, G, H) of the normalised spectra of all pairs of heads.

        It is a sum over the eigenvalues; the Wasserstein distance of the paper is their mean.
        """
        p_dino, p_clip = (F.normalize(s[..., : self.params.eigenvalues], p=1, dim=-1) for s in (dino, clip))
        return (p_dino[:, :, None] - p_clip[:, None]).abs().sum(-1).float()

    def match(self, distance: Tensor) -> Pairs:
        """Match a DINO head to every CLIP head by the largest (or smallest) total distance (B, G, H).

        Several assignments often tie (scripts/count_ties.py). With ``swap`` and G = H, CLIP head i gets DINO head m(i),
        although m maps DINO heads to CLIP heads, with the weight of the pair (DINO i, CLIP m(i)). With G < H, DINO's
        heads are repeated.
        """
        b, g, h = distance.shape
        if self.params.matching == "sequential":
            partner = torch.arange(h, device=distance.device) % g
            return Pairs(partner.expand(b, h), distance.new_ones(b, h))
        cost = 1 - distance if self.params.matching == "complementary" else distance
        cost = cost.repeat(1, math.ceil(h / g), 1).cpu().numpy()
        if self.params.tie_order > 0:
            cost = cost - self.params.tie_order * np.multiply.outer(*(np.arange(side) for side in cost.shape[1:]))
        rows, columns = np.stack([linear_sum_assignment(window) for window in cost]).swapaxes(0, 1)
        rows = rows % g
        rows, columns = (upload(i.astype(np.int64), distance.device) for i in (rows, columns))
        weight = distance[torch.arange(b, device=distance.device)[:, None], rows, columns]  # (B, H)
        if self.params.swap and g == h:
            return Pairs(columns, weight)
        order = columns.argsort(1)
        return Pairs(rows.gather(1, order), weight.gather(1, order))

    def low_rank(self, kd: Tensor, dino: Principal, partner: Tensor, note: Callable[[str, Any], None]) -> Tensor:
        """Return the low-rank graphs (B, H, N, N) of the DINO heads that are matched to CLIP's heads."""
        if self.params.rank is None:
            kd = take(kd, partner)
            return kd.shape[-1] ** -0.5 * kd @ kd.mT
        s = take(dino.values[..., : self.params.rank], partner)  # (B, H, R)
        factors = take(dino.factors[..., : self.params.rank], partner)  # (B, H, N, R)
        kept = torch.ones_like(s, dtype=torch.bool)
        if self.params.energy is not None:  # energy-based low-rank approximation
            kept = s.cumsum(-1) - s < self.params.energy * take(dino.trace, partner)[..., None]
        # dynamic eigenscaling phi
        stretched = stretch(s, kept) if self.params.stretch and self.params.matching != "sequential" else s
        note("singular_values", s)
        note("singular_values_scaled", stretched)
        return recompose(factors, s, torch.where(kept, stretched, 0.0))

    # Section 3.3, object presence-driven object-level context: patch features to scores

    def embed_queries(self, embed: Callable[[str], Queries]) -> Queries:
        """Return the queries, with their vectors in the space of the second CLIP if there is one."""
        queries = embed(self.reads)
        return queries._replace(presence=embed("presence").embeddings) if self.presence else queries

    def presence_scores(self, features: PresenceFeatures, queries: Queries) -> Tensor:
        """Return the cosines of the class token with the unadjusted queries, float (B, Q) or (1, Q)."""
        return features.presence @ (queries.presence if self.presence else queries.embeddings).T


def take(of_dino: Tensor, partner: Tensor) -> Tensor:
    """Select from quantities (B, G, ...) of DINO's heads those matched to CLIP's heads, (B, H, ...)."""
    return of_dino[torch.arange(len(partner), device=partner.device)[:, None], partner]
