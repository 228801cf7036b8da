"""Overlapping masks to one region map."""

from __future__ import annotations

import numpy as np


def paint_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks b[n, h, w] painted over one another in ascending area, so that a larger one hides a smaller one: i32[h, w].

    The k-th mask in that order (equal areas keep their order) has the id k, from 1; what no mask covers is 0. Ids of
    masks that are wholly hidden do not occur. This is the rule of zdk258/CorrCLIP@103bc18; drawings of SAM masks
    usually have the opposite one. ``size`` matters where there are no masks.
    """
    if not len(masks):
        return np.zeros(size, np.int32)
    masks = np.asarray(masks, dtype=bool)
    largest_first = masks.sum((1, 2)).argsort(kind="stable")[::-1]
    top = masks[largest_first].argmax(0)  # position of the first mask that covers the pixel
    covered = np.take_along_axis(masks, largest_first[top][None], 0)[0]
    return np.where(covered, len(masks) - top, 0).astype(np.int32)
