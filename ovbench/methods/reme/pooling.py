"""MAP of equation A1: the mean of patch tokens under each mask of an image, weighted by zeta."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ZETAS = ("area", "bilinear", "nearest")
MASKS_PER_BLOCK = 32


def segment_embeddings(
    tokens: Tensor, grid: tuple[int, int], segment: Tensor, count: int, zeta: str = "area"
) -> Tensor:
    """Pool patch tokens under the segments of a partition (equation A1).

    Tokens are not normalised before the mean; the paper does not state it.

    Args:
        tokens: Patch tokens, float (P, D).
        grid: Rows and columns of the patches, with P = rows * columns.
        segment: Segment of each pixel, 0 to ``count`` - 1, int64 (H, W).
        count: Number of segments.
        zeta: "area", "bilinear" or "nearest"; see `patch_weights` and `mask_weights`.

    Returns:
        Unit vectors, float (count, D).
    """
    if zeta == "area":
        return pooled(tokens, patch_weights(segment, grid, count))
    chunks = torch.arange(count, device=segment.device).split(MASKS_PER_BLOCK)
    return pooled(tokens, torch.cat([mask_weights(segment == ids[:, None, None], grid, zeta) for ids in chunks]))


def pooled(tokens: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted means S_k = sum_p a_kp F_p / sum_p a_kp, scaled to length 1.

    Args:
        tokens: F, float (P, D).
        weights: The weights a, float (K, P).

    Returns:
        Unit vectors, float (K, D).
    """
    return F.normalize(weights @ tokens / weights.sum(1, keepdim=True), dim=-1)


def patch_weights(segment: Tensor, grid: tuple[int, int], count: int) -> Tensor:
    """Return the fraction of each patch's pixels that belong to each segment: zeta "area".

    A pixel belongs to the patch that contains its centre, so even the smallest segment has a weight. The paper does not
    define zeta.

    Args:
        segment: Segment of each pixel, int64 (H, W).
        grid: Rows and columns of the patches.
        count: Number of segments.

    Returns:
        Weights, float (count, rows * columns), from 0 to 1.
    """
    (h, w), (gh, gw), device = segment.shape, grid, segment.device
    rows = (2 * torch.arange(h, device=device) + 1) * gh // (2 * h)
    columns = (2 * torch.arange(w, device=device) + 1) * gw // (2 * w)
    patch = rows[:, None] * gw + columns  # int64 (H, W)
    pair = (segment * (gh * gw) + patch).flatten()
    pixels = pair.new_zeros(count * gh * gw).index_add_(0, pair, torch.ones_like(pair)).view(count, gh * gw)
    return pixels.float() / pixels.sum(0).clamp(min=1)


def mask_weights(masks: Tensor, grid: tuple[int, int], zeta: str = "area") -> Tensor:
    """Return the weights of masks, which may overlap and leave gaps.

    A mask that is too small to be sampled gets weight 1 at the patch of its centroid.

    Args:
        masks: Masks that are not empty, bool (K, H, W).
        grid: Rows and columns of the patches.
        zeta: "area", "bilinear" (aligned corners, as FreeDA) or "nearest".

    Returns:
        Weights, float (K, rows * columns), from 0 to 1.
    """
    if zeta == "area":
        return torch.stack([patch_weights(mask.long(), grid, 2)[1] for mask in masks])
    form = {"mode": "bilinear", "align_corners": True} if zeta == "bilinear" else {"mode": "nearest"}
    weights = F.interpolate(masks[None].float(), grid, **form)[0].flatten(1)
    for k in (weights.sum(1) == 0).nonzero()[:, 0].tolist():
        weights[k, _centroid_patch(masks[k], grid)] = 1.0
    return weights


def _centroid_patch(mask: Tensor, grid: tuple[int, int]) -> int:
    centre = (mask.nonzero().double() + 0.5).mean(0).tolist()
    row, column = (int(at * cells / side) for at, cells, side in zip(centre, grid, mask.shape, strict=True))
    return row * grid[1] + column
