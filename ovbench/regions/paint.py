"""Convert overlapping masks to one region map."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def paint_masks(parts: Iterable[Tensor], areas: Tensor, size: tuple[int, int]) -> Tensor:
    """Paint masks in ascending area, so that a larger mask hides a smaller one.

    This is the rule of zdk258/CorrCLIP 103bc18; SAM masks are usually painted in the opposite order.

    Args:
        parts: The masks in parts, each bool (n, H, W), so that not all need memory at once.
        areas: Pixels of all masks (N,).
        size: (H, W).

    Returns:
        int32 (H, W) on the device of ``areas``: the position of each mask in that order (stable sort), from 1, and 0 if
        no mask covers the pixel. The id of a hidden mask does not occur.
    """
    ids = areas.argsort(stable=True).argsort().int() + 1
    painted, start = torch.zeros(size, dtype=torch.int32, device=areas.device), 0
    for masks in parts:
        own = ids[start : start + len(masks), None, None]
        painted = torch.maximum(painted, (masks * own).amax(0))
        start += len(masks)
    return painted
