"""FreeCP: remove redundant and ambiguous classes from a window before they compete.

Symbols: B windows of N = gh * gw patches; Q queries; C classes without the background; M queries of these classes; K
classes that survive the redundancy purification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ovbench.methods.base import Backbones, Batch, Method, Queries
from ovbench.methods.declarations import FreeCPDeclaration
from ovbench.methods.freecp_boxes import above_threshold, box_union, contour_boxes
from ovbench.methods.gem import GEM
from ovbench.methods.last_block import LastBlock
from ovbench.methods.ops import Decision
from ovbench.methods.params import FreeCPParams
from ovbench.utils.errors import UsageError
from ovbench.utils.registry import METHODS
from ovbench.utils.upload import Download, upload

CROP = 112  # side in pixels of every crop, for boxes of any shape
CROPS_AT_ONCE = 64
EPS = 1e-8


class Purifiable(NamedTuple):
    """Features of windows for the purification.

    Attributes:
        tokens: float (B, N, D), features of the base.
        grid: (gh, gw).
        transition: T, float (B, N, N), from the attention of the base.
        windows: float (B, 3, h, w), from which ambiguous regions are cropped.
        note: Called with the name and value of intermediate quantities.
    """

    tokens: Tensor
    grid: tuple[int, int]
    transition: Tensor
    windows: Tensor
    note: Callable[[str, Any], None]


class Crop(NamedTuple):
    """A region that several classes claim.

    Attributes:
        window: Index of the window.
        number: Index of the group of classes in the window.
        classes: The classes of the group.
        box: (x0, y0, x1, y1) in patches, half-open.
    """

    window: int
    number: int
    classes: list[int]
    box: tuple[int, int, int, int]

    def key(self) -> tuple[int, ...]:
        """Return the window, the group and the box."""
        return self.window, self.number, *self.box


class Vocabulary(NamedTuple):
    """The classes of a vocabulary, without the background.

    The official code supports synonyms of the background only.

    Attributes:
        named: int64 (M,), queries of the classes.
        background: int64 (Q - M,), queries of the background.
        member: int64 (M,), class of each of them, in [0, C).
        first: int64 (C,), first query of each class.
        texts: float (M, D), descriptions (or else the prompts) that ambiguous regions are compared with.
    """

    named: Tensor
    background: Tensor
    member: Tensor
    first: Tensor
    texts: Tensor

    @classmethod
    def of(cls, queries: Queries) -> Vocabulary:
        """Return the classes of the queries."""
        index = np.array(queries.classes)
        is_named = index != (-1 if queries.background is None else queries.background)
        classes, member = np.unique(index[is_named], return_inverse=True)
        host = (*map(np.flatnonzero, (is_named, ~is_named)), member, np.searchsorted(index, classes))
        named, background, member, first = (upload(part, queries.embeddings.device) for part in host)
        texts = queries.embeddings if queries.descriptions is None else queries.descriptions
        return cls(named, background, member, first, F.normalize(texts[named], dim=-1))

    def gather(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Split probabilities (B, Q, N) into classes (B, C, N), summed over synonyms, and background prompts."""
        classes = p.new_zeros(len(p), len(self.first), p.shape[2]).index_add_(1, self.member, p[:, self.named])
        return classes, p[:, self.background]

    def best(self, logits: Tensor) -> Tensor:
        """Return the largest logit of the synonyms of each class: (X, M) to (X, C) for X crops."""
        lowest = logits.new_full((len(logits), len(self.first)), -torch.inf)
        return lowest.scatter_reduce(1, self.member.expand_as(logits), logits, "amax")


class FreeCP(FreeCPDeclaration, Method):
    """Refine the class maps of a base method and remove redundant and ambiguous classes from each window.

    Paper: Chen et al., "Training-Free Class Purification for Open-Vocabulary Semantic Segmentation", ICCV 2025,
    arXiv 2508.00557. Code: chenqi1126/FreeCP 6946aa7. The base is a method that changes only CLIP's last block.
    """

    windowwise = True
    uses_fp64 = True

    def __init__(self, backbones: Backbones, params: FreeCPParams | None = None):
        super().__init__(backbones, params)
        entry = METHODS.load(self.params.base)
        if not (isinstance(entry, type) and issubclass(entry, LastBlock)):
            raise UsageError(
                f'"{self.params.base}" cannot be purified: FreeCP needs the attention of every block',
                where="parameter base",
                fix="choose a method that changes only CLIP's last block, such as clearclip or gem",
            )
        try:
            self.base = entry(backbones)
        except UsageError as error:
            raise UsageError(
                f'the base "{self.params.base}", which runs with its default parameters, does not fit: {error.what}',
                where="parameter base", fix="choose another base, or the tower that its parameters are made for",
            ) from error  # fmt: skip
        self.official = self.params.definitions == "official"
        self.temperature = self.params.temperature or self.clip.temperature

    def encode(self, batch: Batch) -> Purifiable:
        """Return the features of the base and the transition matrix of its attention."""
        heads = 1 if self.official and isinstance(self.base, GEM) else self.clip.heads
        affinity = AttentionMean(heads)
        tokens, grid = self.base.dense(batch.windows, batch.note, watch=affinity)  # (B, N, D)
        transition = self.transition(affinity.result(), batch.note)
        return Purifiable(tokens, grid, transition, batch.windows, batch.note)

    def transition(self, affinity: Tensor, note: Callable[[str, Any], None]) -> Tensor:
        """Refinement: make the affinity A (B, N, N) nearly doubly stochastic, then symmetric, and square it."""
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
        """Return purified maps, float (B, Q, gh, gw) in [0, 1].

        The map of a class is in the row of its first query. The rows of its synonyms, of the background and of removed
        classes are zero.
        """
        cosines = F.normalize(features.tokens, dim=-1) @ F.normalize(queries.embeddings, dim=-1).T
        logits = self.temperature * cosines  # (B, N, Q)
        features.note("patch_logits", logits)
        p = logits.softmax(-1).mT  # P, (B, Q, N)
        features.note("probabilities_patch", p)
        vocabulary = Vocabulary.of(queries)
        p, background = vocabulary.gather(p)  # (B, C, N)
        low = torch.cat([p, background], 1).amin((1, 2), keepdim=True)
        high = torch.cat([p, background], 1).amax((1, 2), keepdim=True)
        z = (p - low) / (high - low).clamp(min=torch.finfo(p.dtype).tiny)  # Z, one range per window
        refined = self.refine(z, features)  # R, (B, C, N)
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
        """Refinement: return R = T (M Z), (B, C, N), normalised per class, with M the boxes of each class.

        The official code masks the columns of T in a C x N x N tensor; the product is the same.
        """
        masks = above_threshold(z.unflatten(2, features.grid)).flatten(0, 1)
        boxes = box_union(masks.cpu().numpy().astype(np.uint8), self.official)
        inside = upload(boxes, z.device).view_as(z)
        features.note("box_masks", inside)
        r = (z * inside) @ features.transition.mT
        low, high = r.amin(2, keepdim=True), r.amax(2, keepdim=True)
        r = (r - low) / (high - low + EPS)
        features.note("refined", r)
        return r

    def spatial_consistency(self, p: Tensor, refined: Tensor, note: Callable[[str, Any], None]) -> Tensor:
        """Redundancy purification: return the consistency S (B, C) of each class before and after the refinement."""
        both = (p * refined).sum(2)
        total = p.sum(2) + refined.sum(2)
        consistency = both / ((total if self.official else total - both) + EPS)
        note("redundancy", consistency)
        return consistency

    def purify_ambiguous(self, refined: Tensor, alive: Tensor, features: Purifiable, vocabulary: Vocabulary) -> Tensor:
        """Ambiguity purification: keep the classes that win a box of the region that their group claims, (B, C).

        A box without area keeps the whole group.
        """
        survivors, maps = Download([alive, refined]).result()
        maps = maps[survivors].split(survivors.sum(1).tolist())  # (K, N) per window
        keep = survivors.clone()
        crops, groups, overlaps = [], [], []
        for window, own in enumerate(maps):
            classes = survivors[window].nonzero()[:, 0]
            overlap = soft_iou(own)  # J, (K, K)
            overlaps.append((classes, overlap))
            if len(classes) < 2:
                continue
            for number, members in enumerate(components(overlap >= self.params.ap_thres)):
                group = classes[members]
                groups += [(window, number, int(c)) for c in group]
                if len(members) > 1:
                    keep[window, group] = False
                    fused = own[members].mean(0).view(features.grid)  # F, (gh, gw)
                    crops += [Crop(window, number, group.tolist(), box) for box in contour_boxes(fused, self.official)]
        winners = self.winners(crops, features, vocabulary)
        for crop, winner in zip(crops, winners, strict=True):
            keep[crop.window, crop.classes if winner is None else winner] = True
        features.note("overlaps", overlaps)
        features.note("groups", groups)
        features.note("group_boxes", [(*c.key(), -1 if w is None else w) for c, w in zip(crops, winners, strict=True)])
        return upload(keep.numpy(), alive.device)

    def winners(self, crops: list[Crop], features: Purifiable, vocabulary: Vocabulary) -> list[int | None]:
        """Return the claiming class with the most similar text for each crop; None for a box without area.

        The crops of all windows are batched.
        """
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
        """Return class maps, with the background as 1 - their maximum, at the size (H, W) of the scores."""
        index = queries.class_index.view(-1, 1, 1).expand_as(scores)
        classes = scores.new_zeros((queries.classes[-1] + 1, *scores.shape[1:]))
        classes = classes.scatter_reduce(0, index, scores, "amax")
        if queries.background is not None:
            classes[queries.background] = 1 - classes.amax(0)
        return classes


class AttentionMean:
    """Average the attention between patches over the first heads of every block that it watches."""

    def __init__(self, heads: int):
        self.heads, self.count = heads, 0
        self.total: Tensor | None = None

    def __call__(self, first: int, weights: Tensor) -> None:
        """Add the attention weights (B, K, 1 + N, 1 + N) of K heads from ``first`` on."""
        own = weights[:, : max(self.heads - first, 0), 1:, 1:]
        if own.shape[1]:
            patches = own.to(torch.promote_types(weights.dtype, torch.float32)).sum(1)
            self.total = patches if self.total is None else self.total.add_(patches)
            self.count += own.shape[1]

    def result(self) -> Tensor:
        """Return the mean, float (B, N, N)."""
        return self.total / self.count


def soft_iou(maps: Tensor) -> Tensor:
    """Return sum(min) / sum(max) of every pair of maps.

    Both sums follow from a + b = min + max and |a - b| = max - min, without a K x K x N tensor.

    Args:
        maps: float (K, N), at least 0.

    Returns:
        float (K, K).
    """
    totals = maps.sum(1)
    both, distance = totals[:, None] + totals, torch.cdist(maps, maps, p=1)
    return (both - distance) / (both + distance)


def components(edges: Tensor) -> list[list[int]]:
    """Return the connected components of a symmetric graph, bool (K, K), ordered by their lowest members."""
    count, group = connected_components(edges.numpy(), directed=False)
    return [np.flatnonzero(group == number).tolist() for number in range(count)]
