"""Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020, visinf/1-stage-wseg): scores follow the image's edges.

A pixel's score becomes the weighted mean of its neighbours' scores, again and again; the weights tell how alike the
neighbours look. They depend on the image alone and are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]

# Elements of a class chunk: on the CPU it should stay in the cache, on a GPU launches should be few.
CHUNK_CPU, CHUNK_GPU = 1 << 18, 1 << 25
TILE = 1 << 24  # numbers in the neighbourhood of the rows whose weights are computed at once


@dataclass(frozen=True)
class PAMR:
    """How often the scores are averaged, and at which distances (pixels) the eight neighbours of each ring lie."""

    iterations: int = 10
    dilations: tuple[int, ...] = (8, 16)

    def weights(self, guide: Tensor) -> Tensor:
        """What `refine` needs to know of the image f[3, H, W], once for all its maps."""
        return affinities(guide, self.dilations)

    def refine(self, scores: Tensor, weights: Tensor) -> Tensor:
        """Refined scores f[q, H, W]; every map is refined by itself."""
        if self.iterations == 0:
            return scores
        weights = weights.to(scores.dtype)
        refined = torch.empty_like(scores)
        step = max(1, chunk_elements(scores.device) // scores[0].numel())
        for start in range(0, len(scores), step):
            part = slice(start, start + step)
            _refine(scores[part], weights, self.dilations, self.iterations, refined[part])
        return refined


def chunk_elements(device: torch.device) -> int:
    """How many elements of maps are refined at once."""
    return CHUNK_CPU if device.type == "cpu" else CHUNK_GPU


def pamr(scores: Tensor, guide: Tensor, dilations: tuple[int, ...], iterations: int) -> Tensor:
    """Refined scores f[q, H, W].

    Args:
        scores: f[q, H, W], one map per query or class.
        guide: f[3, H, W], the image at the size of the scores.
        dilations: distance of each ring of neighbours in pixels; outside the image the border is repeated.
        iterations: 0 returns the scores as they are.
    """
    form = PAMR(iterations, dilations)
    return form.refine(scores, form.weights(guide))


def affinities(guide: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Weights f[8 * rings, H, W] of every pixel's neighbours, which sum to one.

    softmax over all neighbours of the channel mean of ``-|difference| / (1e-8 + 0.1 std)``; std is the unbiased
    deviation of a channel over the neighbours of all rings and, once per ring, the pixel itself.
    """
    views = list(_neighbours(guide, dilations))
    h, w = guide.shape[-2:]
    step = max(1, TILE // (len(views) * 3 * w))
    rows = [slice(top, top + step) for top in range(0, h, step)]
    return torch.cat([_affinities(guide[:, r], [v[:, r] for v in views], len(dilations)) for r in rows], 1)


def _affinities(guide: Tensor, views: list[Tensor], rings: int) -> Tensor:
    """`affinities` of a few rows f[3, rows, W], whose neighbours are ``views``; a tile holds three times as many
    numbers as the weights that come of it, so large images go tile by tile."""
    neighbours = torch.stack(views)  # f[8 * rings, 3, rows, W]
    std = torch.cat([neighbours, guide.expand(rings, *guide.shape)]).std(0)
    return (neighbours.sub_(guide).abs_() / (1e-8 + 0.1 * std)).mean(1).neg_().softmax(0)


def _refine(scores: Tensor, weights: Tensor, dilations: tuple[int, ...], iterations: int, out: Tensor) -> None:
    """All iterations on a chunk of maps, written to ``out``: two buffers, nothing of the size of the neighbourhood."""
    out.copy_(scores)
    for _ in range(iterations):
        mean = torch.zeros_like(out)
        for neighbour, weight in zip(_neighbours(out, dilations), weights, strict=True):
            mean.addcmul_(neighbour, weight)
        out.copy_(mean)


def _neighbours(maps: Tensor, dilations: tuple[int, ...]):
    """Views [c, H, W] of the maps shifted to each of the eight neighbours of each ring."""
    h, w = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps[None], (reach,) * 4, mode="replicate")[0]
    for d in dilations:
        for dy, dx in OFFSETS:
            top, left = reach + dy * d, reach + dx * d
            yield padded[..., top : top + h, left : left + w]
