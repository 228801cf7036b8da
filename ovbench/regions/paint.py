"""Convert overlapping masks to one region map."""

from __future__ import annotations

import numpy as np


def paint_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Paint masks in ascending area, so that a larger mask hides a smaller one.

    This is the rule of zdk258/CorrCLIP 103bc18; SAM masks are usually painted in the opposite order.

    Args:
        masks: bool (N, H, W).
        size: (H, W) of the result if there are no masks.

    Returns:
        int32 (H, W): the position of each mask in that order (stable sort), from 1, and 0 if no mask covers the pixel.
        The id of a hidden mask does not occur.
    """
    if not len(masks):
        return np.zeros(size, np.int32)
    masks = np.asarray(masks, dtype=bool)
    largest_first = masks.sum((1, 2)).argsort(kind="stable")[::-1]
    top = masks[largest_first].argmax(0)  # index of the largest mask that covers the pixel
    covered = np.take_along_axis(masks, largest_first[top][None], 0)[0]
    return np.where(covered, len(masks) - top, 0).astype(np.int32)
