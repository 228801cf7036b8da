"""CASS (Kim et al., CVPR 2025, arXiv 2411.17150): distilling the spectral graph of DINO into CLIP's last attention.

Follows MICV-yonsei/CASS 228ecdd. The defaults are what that code does; where the paper reads otherwise, a parameter
names the other reading. Symbols: b windows; n = gh*gw cells of the CLIP grid; h heads of CLIP; g heads of DINO; e width
of a head; r rank; D width of the joint space; q queries; c clusters of queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.backbones.dino import IMAGENET_MEAN, IMAGENET_STD
from ovbench.backbones.normalization import per_channel
from ovbench.methods.base import Batch, Method, Needs, Queries
from ovbench.methods.cass_spectral import Principal, match_range, principal, recompose, stretch
from ovbench.methods.naclip import neighbourhood
from ovbench.utils.errors import UsageError
from ovbench.utils.images import resize_like_pillow

MISREAD_STD = (0.229, 0.224, 0.255)  # of the official inverse normalisation: ImageNet's, the last one mistyped
TOP_PATCHES = 2  # patches that stand for a query in the text adjustment

CHOICES = {
    "attention": ("distilled", "keys", "queries"),
    "matching": ("complementary", "similar", "sequential"),
    "class_token": ("image", "window"),
}


@dataclass(frozen=True)
class CASSParams:
    """``gamma`` weighs the similarity of the class token with the queries, ``alpha`` the pull of a query towards its
    patches (0 switches either off), ``cluster_distance`` is where clusters of alike queries end. ``class_token``: of
    the whole "image" or of each "window". ``attention``: "distilled", CLIP's "keys" alone (no distillation), or CLIP's
    "queries" with its keys (no neighbourhood either). ``matching`` of heads: "complementary" (as unlike as possible),
    "similar", or "sequential" (the same number, plain mean); where assignments tie, rounding chooses, unless each
    exchange that brings heads into order gains ``tie_order``. ``rank`` of DINO's graph (none: the graph as it is), its
    singular values stretched if ``stretch``; ``eigenvalues`` compared; ``fusion``: what distances are multiplied with.

    The paper: ``energy`` 0.95 (the fewest ranks with that share, ``rank`` at most), ``fusion`` 1, ``swap`` off (heads
    are fused as they were matched), ``match_ranges`` off, ``misread_colours`` off (DINO sees the window in its colours
    and proportions).
    """

    gamma: float = 0.25
    alpha: float = 0.04
    cluster_distance: float = 0.1
    class_token: str = "image"
    attention: str = "distilled"
    matching: str = "complementary"
    tie_order: float = 0.0
    swap: bool = True
    rank: int | None = 10
    energy: float | None = None
    stretch: bool = True
    eigenvalues: int = 20
    fusion: float = 10.0
    match_ranges: bool = True
    misread_colours: bool = True
    gaussian_std: float = 5.0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f'{name} is "{getattr(self, name)}"', where="cass", fix="one of " + ", ".join(known))
        for name in ("rank", "eigenvalues"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more", where="cass")


class CASSFeatures(NamedTuple):
    """``tokens`` f[b, n, D] of the patches over a ``grid``, and the ``presence`` vector f[b or 1, D'] of the class
    token, all of length one."""

    tokens: Tensor
    grid: tuple[int, int]
    presence: Tensor


class Pairs(NamedTuple):
    """For every head of CLIP: its partner among DINO's, i64[b, h], and the weight of that, f[b, h]."""

    partner: Tensor
    weight: Tensor


class CASS(Method):
    """Attention from the graphs of CLIP's and DINO's keys; queries moved towards the image that they are asked of."""

    Params = CASSParams
    needs: ClassVar[Needs] = Needs(backbones=("clip", "dino"), optional=("presence",))
    enlarges_once: ClassVar[bool] = False

    @property
    def windowwise(self) -> bool:
        return self.params.class_token == "window"

    # Windows to patch features: section 3.2, spectral object-level context distillation

    def encode_image(self, image: Tensor) -> Tensor | None:
        """The class token of the whole image, once for all its windows."""
        return self._class_tokens(image[None]) if self.params.class_token == "image" else None

    def encode(self, batch: Batch) -> CASSFeatures:
        embedded, grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(embedded)
        last = self.clip.blocks[-1]
        heads = self.clip.project_heads(last, last.ln_1(x))
        patches = Heads(*(projected[:, :, 1:] for projected in heads))
        weights = self.attention_logits(batch, patches, grid).softmax(-1)
        mixed = self.clip.merge_heads(last, weights @ patches.v)  # neither residual nor feed-forward
        tokens = F.normalize(self.clip.project(mixed), dim=-1)
        batch.note("attention", weights)
        if self.params.class_token == "image":
            presence = batch.context
        elif self.presence is None:
            presence = F.normalize(self.clip.finish_class(x, heads), dim=-1)
        else:
            presence = self._class_tokens(batch.windows)
        return CASSFeatures(tokens, grid, presence)

    def _class_tokens(self, images: Tensor) -> Tensor:
        """By the second CLIP where there is one: f[b, D'], of length one."""
        tower = self.presence or self.clip
        return F.normalize(tower.class_features(self.seen_by(tower, images)), dim=-1)

    def attention_logits(self, batch: Batch, clip: Heads, grid: tuple[int, int]) -> Tensor:
        """What the softmax of the last block is taken of: f[b, h, n, n]."""
        scale = clip.k.shape[-1] ** -0.5
        if self.params.attention == "queries":
            return scale * clip.q @ clip.k.mT
        graph = scale * clip.k @ clip.k.mT  # A_CLIP
        if self.params.attention == "distilled":
            graph = self.distil(graph, clip.k, self.dino_keys(batch, grid), batch.note)
        return graph + neighbourhood(grid, self.params.gaussian_std, graph.device)[1:, 1:].to(graph)  # NACLIP's omega

    def distil(self, clip_graph: Tensor, k: Tensor, kd: Tensor, note: Callable[[str, Any], None]) -> Tensor:
        """The graph f[b, h, n, n] of every head of CLIP, of keys f[b, h, n, e], fused with the graph of one of DINO's
        heads, of keys f[b, g, n, e]."""
        if self.params.match_ranges:
            kd = match_range(kd, k, (1, 2, 3))  # one range for all heads
        ranks = max(self.params.eigenvalues, self.params.rank or 0)
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
        """Keys of DINO's last block, head by head, on the grid of CLIP: f[b, g, n, e]. A DINO of CLIP's width is read
        with CLIP's heads."""
        picture = self.picture(batch) if self.params.misread_colours else self.seen_by(self.dino, batch.windows)
        keys, dino_grid = self.dino.last_keys(picture)
        count = self.clip.heads if self.dino.width == self.clip.width else self.dino.heads
        batch.note("dino_keys", keys.unflatten(2, (count, -1)).transpose(1, 2))
        keys = F.interpolate(keys.mT.unflatten(2, dino_grid), grid, mode="bilinear", align_corners=False)
        return keys.flatten(2).unflatten(1, (count, -1)).mT

    def picture(self, batch: Batch) -> Tensor:
        """What the official code shows to DINO, normalised: the windows un-normalised with the wrong statistics, cut
        to 8 bits and made square. Zeros of a padded window become ImageNet's mean colour."""
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
        """L1 distance of the normalised spectra f64[b, g, r] and f64[b, h, r]: f[b, g, h]. It is 20 times the
        Wasserstein distance of the paper."""
        p_dino, p_clip = (F.normalize(s[..., : self.params.eigenvalues], p=1, dim=-1) for s in (dino, clip))
        return (p_dino[:, :, None] - p_clip[:, None]).abs().sum(-1).float()

    def match(self, distance: Tensor) -> Pairs:
        """Every head of CLIP gets a head of DINO by the assignment of the largest (or least) total distance; often
        several tie (scripts/count_ties.py).

        With ``swap`` head m(i) of DINO goes to head i of CLIP, though i was matched as one of DINO's, and the weight is
        that of the original pair. This needs equal counts; with others, pairs stay as matched, and DINO's heads
        are taken as often as needed to serve every head of CLIP.
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
        rows, columns = (torch.as_tensor(i, dtype=torch.int64, device=distance.device) for i in (rows, columns))
        weight = distance[torch.arange(b, device=distance.device)[:, None], rows, columns]
        if self.params.swap and g == h:
            return Pairs(columns, weight)
        order = columns.argsort(1)
        return Pairs(rows.gather(1, order), weight.gather(1, order))

    def low_rank(self, kd: Tensor, dino: Principal, partner: Tensor, note: Callable[[str, Any], None]) -> Tensor:
        """The graphs of DINO's heads, cut to their largest eigenvalues, in the order of CLIP's heads: f[b, h, n, n]."""
        if self.params.rank is None:
            kd = take(kd, partner)
            return kd.shape[-1] ** -0.5 * kd @ kd.mT
        s = take(dino.values[..., : self.params.rank], partner)
        factors = take(dino.factors[..., : self.params.rank], partner)
        kept = torch.ones_like(s, dtype=torch.bool)
        if self.params.energy is not None:  # energy-based low-rank approximation
            kept = s.cumsum(-1) - s < self.params.energy * take(dino.trace, partner)[..., None]
        # dynamic eigenscaling
        stretched = stretch(s, kept) if self.params.stretch and self.params.matching != "sequential" else s
        note("singular_values", s)
        note("singular_values_scaled", stretched)
        return recompose(factors, s, torch.where(kept, stretched, 0.0))

    # Patch features to scores: section 3.3, object presence-driven object-level context

    def map_queries(self, queries: Queries) -> Queries:
        """Groups of alike queries, formed once for a vocabulary."""
        return queries._replace(clusters=cluster(queries.embeddings, self.params.cluster_distance))

    def score(self, features: CASSFeatures, queries: Queries) -> Tensor:
        presence = self.presence_scores(features, queries)
        cosines = features.tokens @ queries.embeddings.T  # f[b, n, q]
        if self.params.alpha > 0:
            winners, adjusted = self.adjust(features, queries, presence, cosines)
            at = winners[:, None].expand(-1, cosines.shape[1], -1)
            cosines = cosines.scatter(2, at, features.tokens @ adjusted.mT)
        scores = (1 - self.params.gamma) * cosines + self.params.gamma * presence[:, None]
        return scores.mT.unflatten(2, features.grid)

    def presence_scores(self, features: CASSFeatures, queries: Queries) -> Tensor:
        """Cosine of the class token with every query as it was given: f[b or 1, q]."""
        return features.presence @ (queries.presence if self.presence else queries.embeddings).T

    def adjust(
        self, features: CASSFeatures, queries: Queries, presence: Tensor, cosines: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The most present query of each cluster, i64[b, c], moved a little towards the patches of the window most
        like it: f[b, c, D]."""
        winners = first_largest(presence, queries.clusters).expand(len(cosines), -1)
        likeness = cosines.gather(2, winners[:, None].expand(-1, cosines.shape[1], -1))  # f[b, n, c]
        nearest = likeness.topk(min(TOP_PATCHES, likeness.shape[1]), dim=1).indices  # i64[b, k, c]
        window = torch.arange(len(cosines), device=winners.device)[:, None, None]
        mean = F.normalize(features.tokens[window, nearest].mean(1), dim=-1)  # f[b, c, D]
        adjusted = (1 - self.params.alpha) * F.normalize(queries.embeddings[winners], dim=-1) + self.params.alpha * mean
        return winners, F.normalize(adjusted, dim=-1)


def take(of_dino: Tensor, partner: Tensor) -> Tensor:
    """Quantities [b, g, ...] of DINO's heads as those of the partners of CLIP's heads: [b, h, ...]."""
    return of_dino[torch.arange(len(partner), device=partner.device)[:, None], partner]


def cluster(text: Tensor, distance: float) -> Tensor:
    """Clusters of queries f[q, D], i64[q], numbered by their first query: Ward's linkage on their cosine distances
    (the official call, although that linkage is made for Euclidean ones), cut at ``distance``."""
    if len(text) == 1:
        return text.new_zeros(1, dtype=torch.int64)
    unit = F.normalize(text.double(), dim=-1).cpu()
    condensed = (1 - unit @ unit.T).clamp(0, 2)[tuple(torch.triu_indices(len(unit), len(unit), 1))]
    found = fcluster(linkage(condensed.numpy(), method="ward"), t=distance, criterion="distance")
    number = {label: position for position, label in enumerate(dict.fromkeys(found.tolist()))}
    return torch.tensor([number[label] for label in found.tolist()], device=text.device)


def first_largest(values: Tensor, clusters: Tensor) -> Tensor:
    """In every cluster of i64[q] the first index of the largest of the values f[b, q]: i64[b, c]."""
    index = clusters.expand(len(values), -1)
    count = int(clusters.max()) + 1
    largest = values.new_full((len(values), count), -torch.inf).scatter_reduce(1, index, values, "amax")
    position = torch.arange(values.shape[1], device=values.device).expand_as(index)
    position = torch.where(values == largest.gather(1, index), position, values.shape[1] - 1)
    return position.new_full((len(values), count), values.shape[1]).scatter_reduce(1, index, position, "amin")
