"""FreeCP (Chen et al., ICCV 2025, arXiv 2508.00557): purifying the classes of a window before they compete.

A post-processing of any method that changes CLIP's last block only (its *base*). Follows chenqi1126/FreeCP 6946aa7.
Symbols: b windows of N = gh*gw patches; q queries, of which C name classes and the rest the background; K classes that
survive the first purification.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ovbench.inference.decision import Decision
from ovbench.methods.base import Backbones, Batch, Method, Queries
from ovbench.methods.freecp_boxes import above_threshold, box_union, contour_boxes
from ovbench.methods.gem import GEM
from ovbench.methods.last_block import LastBlock
from ovbench.utils.errors import UsageError
from ovbench.utils.registry import METHODS

CROP = 112  # pixels, both sides, whatever the aspect of the box
CROPS_AT_ONCE = 64
EPS = 1e-8


@dataclass(frozen=True)
class FreeCPParams:
    """``base``: the method whose scores are purified; the official code's are gem, clearclip, maskclip-freecp and
    sclip-freecp. A class survives in a window if its spatial consistency exceeds
    ``rp_thres``; classes whose maps overlap by ``ap_thres`` (soft IoU) or more are ambiguous.

    ``temperature`` of the softmax over queries, s: none is that of the checkpoint, exp(logit_scale), which is 100 for
    OpenAI's.

    ``definitions``: "official" computes what the published code does; "paper" undoes its three accidents: the spatial
    consistency is over the union instead of the sum (so ``rp_thres`` means something else), boxes keep the last row and
    column of the grid, and GEM's affinity is the mean over all heads instead of the first.
    ``redundancy`` and ``ambiguity`` switch a component off for ablations. Without descriptions in the queries, the
    prompts of the classes choose among ambiguous ones.
    """

    base: str = "gem"
    temperature: float | None = None
    rp_thres: float = 0.1
    ap_thres: float = 0.7
    definitions: str = "official"
    redundancy: bool = True
    ambiguity: bool = True

    def __post_init__(self) -> None:
        if self.definitions not in ("official", "paper"):
            raise UsageError(f'"{self.definitions}" is no value for "definitions"', fix='give "official" or "paper"')
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise UsageError("temperature must be positive", where="freecp")


class Purifiable(NamedTuple):
    """What `FreeCP.encode` knows of windows: features f[b, N, d] of the base, the transition matrix f[b, N, N] of its
    attention, and the windows themselves f[b, 3, h, w], from which ambiguous regions are cut."""

    tokens: Tensor
    grid: tuple[int, int]
    transition: Tensor
    windows: Tensor
    note: Callable[[str, Any], None]


class Crop(NamedTuple):
    """A region that several classes claim: its window, the number of their group in it, the classes, and the box
    (x0, y0, x1, y1) in patches, half-open."""

    window: int
    number: int
    classes: list[int]
    box: tuple[int, int, int, int]

    def key(self) -> tuple[int, ...]:
        return self.window, self.number, *self.box


class Vocabulary(NamedTuple):
    """Queries as FreeCP sees them: ``named`` i64[n] are those of classes, ``member`` i64[n] the place of their class
    among the C classes, ``first`` i64[C] the first query of each, ``texts`` f[n, d] what ambiguous regions are compared
    with. The official code knows no synonyms but the background's."""

    named: Tensor
    member: Tensor
    first: Tensor
    texts: Tensor

    @classmethod
    def of(cls, queries: Queries) -> Vocabulary:
        index = queries.class_index
        named = (index != (-1 if queries.background is None else queries.background)).nonzero()[:, 0]
        classes, member = index[named].unique(return_inverse=True)
        texts = queries.embeddings if queries.descriptions is None else queries.descriptions
        return cls(named, member, torch.searchsorted(index, classes), F.normalize(texts[named], dim=-1))

    def gather(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities f[b, q, N] of queries as those of classes, f[b, C, N], which are the sums over their synonyms,
        and of the prompts of the background."""
        rest = torch.ones(p.shape[1], dtype=torch.bool, device=p.device).index_fill(0, self.named, False)
        classes = p.new_zeros(len(p), len(self.first), p.shape[2]).index_add_(1, self.member, p[:, self.named])
        return classes, p[:, rest]

    def best(self, logits: Tensor) -> Tensor:
        """Logits f[m, n] of named queries as those of classes f[m, C]: the largest among the synonyms."""
        lowest = logits.new_full((len(logits), len(self.first)), -torch.inf)
        return lowest.scatter_reduce(1, self.member.expand_as(logits), logits, "amax")


class FreeCP(Method):
    """Refined class maps, from which redundant and ambiguous classes of each window have been removed."""

    Params = FreeCPParams
    windowwise = True

    def __init__(self, backbones: Backbones, params: FreeCPParams | None = None):
        super().__init__(backbones, params)
        entry = METHODS.load(self.params.base)
        if not (isinstance(entry, type) and issubclass(entry, LastBlock)):
            raise UsageError(
                f'"{self.params.base}" does not offer its attention layer by layer',
                where="parameter base",
                fix="choose a method that changes CLIP's last block only, such as clearclip or gem",
            )
        self.base = entry(backbones)
        self.official = self.params.definitions == "official"
        self.temperature = self.params.temperature or self.clip.temperature

    def encode(self, batch: Batch) -> Purifiable:
        heads = 1 if self.official and isinstance(self.base, GEM) else self.clip.heads
        affinity = AttentionMean(heads)
        tokens, grid = self.base.dense(batch.windows, batch.note, watch=affinity)
        transition = self.transition(affinity.result(), batch.note)
        return Purifiable(tokens, grid, transition, batch.windows, batch.note)

    def transition(self, affinity: Tensor, note: Callable[[str, Any], None]) -> Tensor:
        """Section "refinement": the affinity A f[b, N, N] made nearly doubly stochastic, symmetric, and squared."""
        note("affinity", affinity)
        t = affinity
        for turn in range(3):
            t = t / t.sum(1, keepdim=True)
            t = t / t.sum(2, keepdim=True)
            if turn == 0:
                note("transition_first", t)
        t = (t + t.mT) / 2
        note("transition_symmetric", t)
        t = t @ t
        note("transition", t)
        return t

    def score(self, features: Purifiable, queries: Queries) -> Tensor:
        """Purified maps f[b, q, gh, gw] in [0, 1]. The map of a class stands in the row of its first query; rows of its
        synonyms, of the background and of removed classes are zero."""
        cosines = F.normalize(features.tokens, dim=-1) @ F.normalize(queries.embeddings, dim=-1).T
        logits = self.temperature * cosines  # f[b, N, q]
        features.note("patch_logits", logits)
        p = logits.softmax(-1).mT  # P, f[b, q, N]
        features.note("probabilities_patch", p)
        vocabulary = Vocabulary.of(queries)
        p, background = vocabulary.gather(p)
        low = torch.cat([p, background], 1).amin((1, 2), keepdim=True)
        high = torch.cat([p, background], 1).amax((1, 2), keepdim=True)
        z = (p - low) / (high - low).clamp(min=torch.finfo(p.dtype).tiny)  # Z: one range for all columns of a window
        refined = self.refine(z, features)
        alive = self.spatial_consistency(p, refined, features.note) > self.params.rp_thres
        if not self.params.redundancy:
            alive = torch.ones_like(alive)
        features.note("survive_redundancy", alive)
        if self.params.ambiguity:
            alive = self.purify_ambiguous(refined, alive, features, vocabulary)
        features.note("survive_ambiguity", alive)
        scores = z.new_zeros(len(z), len(queries.embeddings), z.shape[2])
        scores[:, vocabulary.first] = refined * alive[..., None]
        return scores.unflatten(2, features.grid)

    def refine(self, z: Tensor, features: Purifiable) -> Tensor:
        """R f[b, C, N]: each patch receives what T brings from inside the boxes of a class, normalised per class.

        The official code masks the columns of T, a C x N x N tensor; T (M Z) is the same product.
        """
        masks = above_threshold(z.unflatten(2, features.grid)).flatten(0, 1)
        boxes = box_union(masks.cpu().numpy().astype(np.uint8), self.official)
        inside = torch.from_numpy(boxes).to(z.device).view_as(z)
        features.note("box_masks", inside)
        r = (z * inside) @ features.transition.mT
        low, high = r.amin(2, keepdim=True), r.amax(2, keepdim=True)
        r = (r - low) / (high - low + EPS)
        features.note("refined", r)
        return r

    def spatial_consistency(self, p: Tensor, refined: Tensor, note: Callable[[str, Any], None]) -> Tensor:
        """S f[b, C]: how well a class agrees with itself before and after refinement."""
        both = (p * refined).sum(2)
        total = p.sum(2) + refined.sum(2)
        consistency = both / ((total if self.official else total - both) + EPS)
        note("redundancy", consistency)
        return consistency

    def purify_ambiguous(self, refined: Tensor, alive: Tensor, features: Purifiable, vocabulary: Vocabulary) -> Tensor:
        """Ambiguity purification: of classes that claim the same region, those survive that win one of its boxes. A box
        without area keeps all of its group."""
        survivors = alive.cpu()
        maps = refined[alive].cpu().split(survivors.sum(1).tolist())  # f[K, N] of each window
        keep = survivors.clone()
        crops, groups, overlaps = [], [], []
        for window, own in enumerate(maps):
            classes = survivors[window].nonzero()[:, 0]
            overlap = soft_iou(own)
            overlaps.append((classes, overlap))
            if len(classes) < 2:
                continue
            for number, members in enumerate(components(overlap >= self.params.ap_thres)):
                group = classes[members]
                groups += [(window, number, int(c)) for c in group]
                if len(members) > 1:
                    keep[window, group] = False
                    fused = own[members].mean(0).view(features.grid)
                    crops += [Crop(window, number, group.tolist(), box) for box in contour_boxes(fused, self.official)]
        winners = self.winners(crops, features, vocabulary)
        for crop, winner in zip(crops, winners, strict=True):
            keep[crop.window, crop.classes if winner is None else winner] = True
        features.note("overlaps", overlaps)
        features.note("groups", groups)
        features.note(
            "group_boxes", [(*c.key(), -1 if w is None else w) for c, w in zip(crops, winners, strict=True)]
        )
        return keep.to(alive.device)

    def winners(self, crops: list[Crop], features: Purifiable, vocabulary: Vocabulary) -> list[int | None]:
        """The class whose text is nearest to each region, among those that claim it; None for a box without area. All
        regions of all windows go through the tower together."""
        patch = self.clip.patch
        sound = [c for c in crops if c.box[0] < c.box[2] and c.box[1] < c.box[3]]
        images = []
        for crop in sound:
            x0, y0, x1, y1 = (side * patch for side in crop.box)
            region = features.windows[crop.window : crop.window + 1, :, y0:y1, x0:x1]
            images.append(F.interpolate(region, (CROP, CROP), mode="bilinear", align_corners=False))
        winner: dict[tuple[int, ...], int] = {}
        rows = []
        for start in range(0, len(images), CROPS_AT_ONCE):
            seen = F.normalize(self.base.class_features(torch.cat(images[start : start + CROPS_AT_ONCE])), dim=-1)
            logits = vocabulary.best(self.temperature * seen @ vocabulary.texts.T).cpu()
            for crop, row in zip(sound[start : start + CROPS_AT_ONCE], logits, strict=True):
                winner[crop.key()] = crop.classes[int(row[crop.classes].argmax())]
                rows += [(*crop.key(), c, float(row[c])) for c in crop.classes]
        features.note("crop_logits", rows)
        return [winner.get(crop.key()) for crop in crops]

    def probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """The maps of the classes f[c, H, W] at the original size; the background scores 1 - their maximum."""
        index = queries.class_index.view(-1, 1, 1).expand_as(scores)
        classes = scores.new_zeros((int(queries.class_index[-1]) + 1, *scores.shape[1:]))
        classes = classes.scatter_reduce(0, index, scores, "amax")
        if queries.background is not None:
            classes[queries.background] = 1 - classes.amax(0)
        return classes


class AttentionMean:
    """Mean attention between patches f[b, N, N] over the first ``heads`` heads of every block that it watches."""

    def __init__(self, heads: int):
        self.heads, self.count = heads, 0
        self.total: Tensor | None = None

    def __call__(self, head: int, weights: Tensor) -> None:
        if head < self.heads:
            patches = weights[:, 1:, 1:].to(torch.promote_types(weights.dtype, torch.float32))
            self.total = patches.clone() if self.total is None else self.total.add_(patches)
            self.count += 1

    def result(self) -> Tensor:
        return self.total / self.count


def soft_iou(maps: Tensor) -> Tensor:
    """Sum of minima over sum of maxima of every pair of maps f[k, n]: f[k, k]. As a + b = min + max and |a - b| = max -
    min, the sums follow from the L1 distances, without a k x k x n tensor."""
    totals = maps.sum(1)
    both, distance = totals[:, None] + totals, torch.cdist(maps, maps, p=1)
    return (both - distance) / (both + distance)


def components(edges: Tensor) -> list[list[int]]:
    """Connected components of a symmetric graph bool[k, k], in the order of their lowest members."""
    count, group = connected_components(edges.numpy(), directed=False)
    return [np.flatnonzero(group == number).tolist() for number in range(count)]
