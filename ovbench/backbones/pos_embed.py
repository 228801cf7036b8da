"""Position tables for token grids that a ViT was not trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(table: Tensor, grid: tuple[int, int], *, square_only: bool) -> Tensor:
    """The position table f[1 + n*n, c] (class token first) for a grid of (gh, gw) tokens: f[1 + gh*gw, c].

    Follows facebookresearch/dino ``interpolate_pos_encoding``, which the CLIP-based methods copied: bicubic by the
    scale factor ``(side + 0.1) / native``, and that factor, not the ratio of the sizes, places the samples. The table
    is used as it is where the number of tokens is the native one; with ``square_only`` (DINO) only if the grid is
    square, too.
    """
    count = table.shape[0] - 1
    if grid[0] * grid[1] == count and (not square_only or grid[0] == grid[1]):
        return table
    native = round(count**0.5)
    patches = table[1:].T.reshape(1, -1, native, native)
    factor = tuple((side + 0.1) / native for side in grid)
    patches = F.interpolate(patches, scale_factor=factor, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], patches[0].flatten(1).T])


def resize_positions_smoothly(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """As `resize_positions`, the way timm does it: by the target size, bicubic with antialiasing, which is another
    cubic kernel even where the table grows. Only the native grid gets the table as it is."""
    native = round((table.shape[0] - 1) ** 0.5)
    if tuple(grid) == (native, native):
        return table
    patches = table[1:].T.reshape(1, -1, native, native)
    patches = F.interpolate(patches, grid, mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([table[:1], patches[0].flatten(1).T])
