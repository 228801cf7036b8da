"""Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020, visinf/1-stage-wseg), along the edges of an image.

In each iteration, the score of a pixel becomes the weighted mean of the scores of its neighbours. The weights are
similarities of pixels; they depend only on the image and are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]

# Elements of a chunk of maps on a CPU, small enough for its cache, and of all their weighted neighbours on a GPU.
CHUNK_CPU, CHUNK_GPU = 1 << 18, 1 << 27
TILE = 1 << 24  # elements of the neighbourhood of the rows whose weights are computed at once


@dataclass(frozen=True)
class PAMR:
    """PAMR with its settings.

    Attributes:
        iterations: Number of averaging steps; 0 leaves the scores unchanged.
        dilations: Distance of each ring of eight neighbours, in pixels.
    """

    iterations: int = 10
    dilations: tuple[int, ...] = (8, 16)

    def weights(self, guide: Tensor) -> Tensor:
        """Return the weights of an image float (3, H, W), for `refine`."""
        return affinities(guide, self.dilations)

    def refine_windows(self, scores: Tensor, guides: Tensor) -> Tensor:
        """Refine the maps of windows, on a GPU of many windows at once, because each step is a launch.

        Args:
            scores: float (B, Q, H, W).
            guides: float (B, 3, H, W), the windows of the image.

        Returns:
            float (B, Q, H, W).
        """
        step = 1 if scores.device.type == "cpu" else self._at_once(scores[0])
        if step == 1:
            return torch.stack([self.refine(s, self.weights(g)) for s, g in zip(scores, guides, strict=True)])
        groups = zip(scores.split(step), guides.split(step), strict=True)
        return torch.cat([self.refine_together(*group) for group in groups])

    def refine_together(self, scores: Tensor, guides: Tensor) -> Tensor:
        """Return the same as `refine_windows`, of all windows at once."""
        if self.iterations == 0:
            return scores
        refined = torch.empty_like(scores)
        _refine(scores, self.weights(guides).to(scores.dtype), self.dilations, self.iterations, refined)
        return refined

    def refine(self, scores: Tensor, weights: Tensor) -> Tensor:
        """Refine each map independently.

        Args:
            scores: float (Q, H, W).
            weights: The weights, from `weights`.

        Returns:
            float (Q, H, W).
        """
        if self.iterations == 0:
            return scores
        weights = weights.to(scores.dtype)
        refined = torch.empty_like(scores)
        step = self._at_once(scores[0])
        for start in range(0, len(scores), step):
            chunk = slice(start, start + step)
            _refine(scores[chunk], weights, self.dilations, self.iterations, refined[chunk])
        return refined

    def _at_once(self, one: Tensor) -> int:
        """Return how many maps, or windows with their maps, are refined at once; ``one`` is one of them."""
        elements = CHUNK_CPU if one.device.type == "cpu" else CHUNK_GPU // (9 * len(self.dilations))
        return max(1, elements // one.numel())


def pamr(scores: Tensor, guide: Tensor, dilations: tuple[int, ...], iterations: int) -> Tensor:
    """Refine scores along the edges of an image.

    Args:
        scores: float (Q, H, W), one map per query or class.
        guide: float (3, H, W), the image at the size of the scores.
        dilations: Distance of each ring of neighbours in pixels; the border is repeated outside the image.
        iterations: 0 returns the scores unchanged.

    Returns:
        float (Q, H, W).
    """
    refinement = PAMR(iterations, dilations)
    return refinement.refine(scores, refinement.weights(guide))


def affinities(guide: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Compute the weights of each pixel's neighbours, which sum to one.

    They are a softmax, over all neighbours, of the channel mean of ``-|difference| / (1e-8 + 0.1 std)``. std is the
    unbiased standard deviation of a channel over the neighbours of all rings and, once per ring, the pixel.

    Args:
        guide: float (..., 3, H, W), one or several images.
        dilations: Distance of each ring of neighbours in pixels.

    Returns:
        float (8 * rings, ..., H, W).
    """
    views = list(_neighbours(guide, dilations))
    step = max(1, TILE // (len(views) * guide[..., 0, :].numel()))
    rows = [slice(top, top + step) for top in range(0, guide.shape[-2], step)]
    tiles = [_affinities(guide[..., r, :], [v[..., r, :] for v in views], len(dilations)) for r in rows]
    return torch.cat(tiles, -2)


def _affinities(guide: Tensor, views: list[Tensor], rings: int) -> Tensor:
    """Compute `affinities` of some rows; row by row because intermediates have three times the size of the weights."""
    neighbours = torch.stack(views)  # (8 * rings, ..., 3, rows, W)
    std = torch.cat([neighbours, guide.expand(rings, *guide.shape)]).std(0)
    return (neighbours.sub_(guide).abs_() / (1e-8 + 0.1 * std)).mean(-3).neg_().softmax(0)


def _refine(scores: Tensor, weights: Tensor, dilations: tuple[int, ...], iterations: int, out: Tensor) -> None:
    """Run all iterations on a chunk of maps, into ``out``."""
    out.copy_(scores)
    if scores.device.type != "cpu":
        _iterate_by_rings(out, weights, dilations, iterations)
        return
    for _ in range(iterations):  # two buffers, none of the size of the neighbourhood
        mean = torch.zeros_like(out)
        for neighbour, weight in zip(_neighbours(out, dilations), weights, strict=True):
            mean.addcmul_(neighbour, weight.unsqueeze(-3))
        out.copy_(mean)


def _iterate_by_rings(maps: Tensor, weights: Tensor, dilations: tuple[int, ...], iterations: int) -> None:
    """Run all iterations in place with one product per ring: slower on a CPU, few launches on a GPU.

    A ring with its pixel is a grid of 3 x 3, whose middle has the weight 0.
    """
    rings = weights.unflatten(0, (-1, len(OFFSETS)))
    before, after = rings.split(len(OFFSETS) // 2, 1)
    rings = torch.cat([before, torch.zeros_like(rings[:, :1]), after], 1).unflatten(1, (3, 3)).unsqueeze(-3)
    products, reach = maps.new_empty((len(dilations), 3, 3, *maps.shape)), max(dilations)
    for _ in range(iterations):
        padded = _padded(maps, reach)
        row = padded.stride(-2)
        for dilation, ring, product in zip(dilations, rings, products, strict=True):
            shape, steps = (3, 3, *maps.shape), (dilation * row, dilation, *padded.stride())
            torch.mul(padded.as_strided(shape, steps, (reach - dilation) * (row + 1)), ring, out=product)
        torch.sum(products.flatten(0, 2), 0, out=maps)


def _neighbours(maps: Tensor, dilations: tuple[int, ...]):
    """Yield views of maps (..., C, H, W), shifted to each of the eight neighbours of each ring."""
    h, w = maps.shape[-2:]
    reach = max(dilations)
    padded = _padded(maps, reach)
    for d in dilations:
        for dy, dx in OFFSETS:
            top, left = reach + dy * d, reach + dx * d
            yield padded[..., top : top + h, left : left + w]


def _padded(maps: Tensor, reach: int) -> Tensor:
    """Repeat the border of maps (..., C, H, W)."""
    padded = F.pad(maps.reshape(-1, *maps.shape[-3:]), (reach,) * 4, mode="replicate")
    return padded.view(*maps.shape[:-2], *padded.shape[-2:])
