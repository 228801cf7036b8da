"""Boxes around the high values of class maps for FreeCP.

``official`` repeats an error of the official code that changes numbers, see `box_ends`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

BOX_THRESHOLD = 0.4  # fraction of the maximum of a map


def above_threshold(maps: Tensor) -> Tensor:
    """Return where maps exceed `BOX_THRESHOLD` times their maximum, both truncated to 256 levels.

    Args:
        maps: float (..., h, w) in [0, 1].

    Returns:
        bool (..., h, w).
    """
    levels = (maps * 255).to(torch.uint8)
    threshold = (BOX_THRESHOLD * levels.amax((-2, -1), keepdim=True).double()).floor()
    return levels > threshold


def box_ends(start: np.ndarray, length: np.ndarray, size: int, official: bool) -> np.ndarray:
    """Return the half-open ends of boxes along one axis.

    The official code clips them to the last index as if they were inclusive, so boxes at the border lose its row or
    column.

    Args:
        start: First index of each box.
        length: Length of each box.
        size: Length of the axis.
        official: Clip as the official code does.

    Returns:
        Ends, of the shape of ``start``.
    """
    return np.minimum(start + length, size - 1 if official else size)


def box_union(masks: np.ndarray, official: bool) -> np.ndarray:
    """Return the union of the bounding boxes of the components of each mask.

    All masks are searched in one mosaic. Boxes around holes are inside the boxes of their components.

    Args:
        masks: uint8 (K, h, w), 8-connected.
        official: See `box_ends`.

    Returns:
        bool (K, h, w).
    """
    k, h, w = masks.shape
    side = math.isqrt(k - 1) + 1
    tiles = np.zeros((side * side, h + 1, w + 1), np.uint8)
    tiles[:k, :h, :w] = masks
    mosaic = tiles.reshape(side, side, h + 1, w + 1).swapaxes(1, 2).reshape(side * (h + 1), side * (w + 1))
    x, y, width, height = cv2.connectedComponentsWithStats(mosaic, connectivity=8)[2][1:, :4].T
    (row, y0), (column, x0) = np.divmod(y, h + 1), np.divmod(x, w + 1)
    y1, x1 = box_ends(y0, height, h, official), box_ends(x0, width, w, official)
    edges = np.zeros((k, h + 1, w + 1), np.int32)  # +1 and -1 at the corners; their running sums count boxes
    for ys, xs, sign in ((y0, x0, 1), (y1, x1, 1), (y0, x1, -1), (y1, x0, -1)):
        np.add.at(edges, (row * side + column, ys, xs), sign)
    return edges.cumsum(1).cumsum(2)[:, :h, :w] > 0


def contour_boxes(fused: Tensor, official: bool) -> list[tuple[int, int, int, int]]:
    """Return the bounding boxes of all contours of a map, also around holes.

    Args:
        fused: float (h, w) in [0, 1].
        official: See `box_ends`.

    Returns:
        Boxes (x0, y0, x1, y1), half-open; one box without area if there is no contour.
    """
    mask = above_threshold(fused).numpy().astype(np.uint8)
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    boxes = np.array([cv2.boundingRect(contour) for contour in contours] or [(0, 0, 0, 0)])
    x, y, width, height = boxes.T
    x1, y1 = box_ends(x, width, mask.shape[1], official), box_ends(y, height, mask.shape[0], official)
    return [tuple(map(int, box)) for box in zip(x, y, x1, y1, strict=True)]
