"""Interpolate position tables of a ViT to other token grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(table: Tensor, grid: tuple[int, int], *, square_only: bool) -> Tensor:
    """Interpolate a position table to another grid, as official code of CLIP-based methods and of DINO does.

    Follows facebookresearch/dino ``interpolate_pos_encoding``: bicubic, with samples placed by the scale factor
    ``(side + 0.1) / native`` instead of the ratio of the sizes. A grid with the native number of tokens gets the table
    unchanged.

    Args:
        table: float (1 + N*N, C), class token first.
        grid: Rows and columns of tokens, (gh, gw).
        square_only: Only a square grid gets the table unchanged (DINO).

    Returns:
        float (1 + gh*gw, C).
    """
    count = table.shape[0] - 1
    if grid[0] * grid[1] == count and (not square_only or grid[0] == grid[1]):
        return table
    native = round(count**0.5)
    patches = table[1:].T.reshape(1, -1, native, native)
    factor = tuple((side + 0.1) / native for side in grid)
    patches = F.interpolate(patches, scale_factor=factor, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], patches[0].flatten(1).T])


def resize_positions_smoothly(table: Tensor, grid: tuple[int, int], *, antialias: bool = True) -> Tensor:
    """Interpolate a position table to another grid, as timm does: by the target size, bicubic with antialiasing.

    Antialiasing uses another cubic kernel, also for a larger grid. Only the native grid gets the table unchanged.
    Other arguments and the result are those of `resize_positions`.
    """
    native = round((table.shape[0] - 1) ** 0.5)
    if tuple(grid) == (native, native):
        return table
    patches = table[1:].T.reshape(1, -1, native, native)
    patches = F.interpolate(patches, grid, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([table[:1], patches[0].flatten(1).T])
