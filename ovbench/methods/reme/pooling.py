"""MAP of equation A1: patch tokens averaged under the masks of an image, by weights that zeta decides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ZETAS = ("area", "bilinear", "nearest")
MASKS_AT_ONCE = 32


def segment_embeddings(
    tokens: Tensor, grid: tuple[int, int], segment: Tensor, count: int, zeta: str = "area"
) -> Tensor:
    """Equation A1 on a partition: MAP of the tokens f[P, d] over ``grid`` under the segments 0..count-1 of the pixels,
    i64[H, W]; f[count, d] of length 1. Tokens are not normalised before the mean [D]."""
    if zeta == "area":
        return pooled(tokens, patch_shares(segment, grid, count))
    chunks = torch.arange(count, device=segment.device).split(MASKS_AT_ONCE)
    return pooled(tokens, torch.cat([mask_shares(segment == ids[:, None, None], grid, zeta) for ids in chunks]))


def pooled(tokens: Tensor, shares: Tensor) -> Tensor:
    """S_k = sum_p a_kp F_p / sum_p a_kp of length 1, f[k, d], of tokens F f[P, d] and weights a f[k, P]."""
    return F.normalize(shares @ tokens / shares.sum(1, keepdim=True), dim=-1)


def patch_shares(segment: Tensor, grid: tuple[int, int], count: int) -> Tensor:
    """zeta "area" [D]: the share of each patch's block of pixels that belongs to each segment, f[count, gh*gw], from
    the segments i64[H, W] of the pixels. A pixel belongs to the patch that its centre lies in, so that no segment is
    without weight, however small."""
    (h, w), (gh, gw), device = segment.shape, grid, segment.device
    rows = (2 * torch.arange(h, device=device) + 1) * gh // (2 * h)
    columns = (2 * torch.arange(w, device=device) + 1) * gw // (2 * w)
    patch = rows[:, None] * gw + columns  # i64[H, W]
    pixels = torch.bincount((segment * (gh * gw) + patch).flatten(), minlength=count * gh * gw).view(count, gh * gw)
    return pixels.float() / pixels.sum(0).clamp(min=1)


def mask_shares(masks: Tensor, grid: tuple[int, int], zeta: str = "area") -> Tensor:
    """Weights f[k, gh*gw] of masks bool[k, H, W], none of them empty, which may overlap and leave gaps: "area";
    "bilinear", with aligned corners (FreeDA); or "nearest". A mask that has no weight anywhere, being smaller than what
    is sampled, has that of the patch under its centroid [D]."""
    if zeta == "area":
        return torch.stack([patch_shares(mask.long(), grid, 2)[1] for mask in masks])
    form = {"mode": "bilinear", "align_corners": True} if zeta == "bilinear" else {"mode": "nearest"}
    shares = F.interpolate(masks[None].float(), grid, **form)[0].flatten(1)
    for k in (shares.sum(1) == 0).nonzero()[:, 0].tolist():
        shares[k, _centroid_patch(masks[k], grid)] = 1.0
    return shares


def _centroid_patch(mask: Tensor, grid: tuple[int, int]) -> int:
    centre = (mask.nonzero().double() + 0.5).mean(0).tolist()
    row, column = (int(at * cells / side) for at, cells, side in zip(centre, grid, mask.shape, strict=True))
    return row * grid[1] + column
