"""Sliding windows: positions, cutting, padding, and merging of their scores.

The geometry is mmsegmentation's (``EncoderDecoder.slide_inference``): windows at multiples of the stride, the last one
of each row and column pushed back inside the image. Sizes are ``(h, w)``, boxes half-open ``(y1, x1, y2, x2)``.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.ops import Box, Pad
from ovbench.utils.upload import upload


def window_grid(size: tuple[int, int], crop: int, stride: int) -> list[Box]:
    """Return the windows of an image in scan order.

    Args:
        size: (h, w) of the resized image.
        crop: Side of a window; 0 for one window over the whole image. A shorter side of the image gives a window of
            this length.
        stride: Distance of windows.
    """
    h, w = size
    if crop == 0:
        return [Box(0, 0, h, w)]
    boxes = []
    for row in range(max(h - crop + stride - 1, 0) // stride + 1):
        for column in range(max(w - crop + stride - 1, 0) // stride + 1):
            y2, x2 = min(row * stride + crop, h), min(column * stride + crop, w)
            boxes.append(Box(max(y2 - crop, 0), max(x2 - crop, 0), y2, x2))
    return boxes


def pad_to_multiple(size: tuple[int, int], multiple: int) -> Pad:
    """Return the padding to multiples of a number; left and top get the smaller half.

    Args:
        size: (h, w) of the window.
        multiple: 0 for no padding.
    """
    if multiple == 0:
        return Pad(0, 0, 0, 0)
    extra_h, extra_w = (-side % multiple for side in size)
    return Pad(extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)


def cut(image: Tensor, boxes: list[Box], pad: Pad, value: float = 0) -> Tensor:
    """Cut windows of one size from an image and pad them.

    Args:
        image: (..., H, W).
        boxes: The windows.
        pad: Padding of every window.
        value: Value of padded pixels.

    Returns:
        (B, ..., h, w).
    """
    return stack([box.of(image) for box in boxes], pad, value)


def stack(windows: list[Tensor], pad: Pad, value: float = 0) -> Tensor:
    """Stack windows (..., h, w) of one size to a batch (B, ..., h, w) and pad them with ``value``."""
    batch = torch.stack(windows)
    return F.pad(batch, tuple(pad), value=value) if any(pad) else batch


class WindowMean:
    """The mean of overlapping window scores in fp32: `add` every window, then call `result` once.

    Args:
        size: (h, w) of the map, None for the size of the only window.
    """

    def __init__(self, size: tuple[int, int] | None):
        self.size = size
        self.total: Tensor | None = None
        self.boxes: list[Box] = []

    def add(self, scores: Tensor, boxes: list[Box], start: int = 0, queries: int | None = None) -> None:
        """Add window scores.

        Args:
            scores: float (B, Q, h, w).
            boxes: Position of each window.
            start: Number of the first query in ``scores``.
            queries: Number of all queries, None if ``scores`` has all.
        """
        if self.total is None:
            size = self.size or tuple(scores.shape[2:])
            self.total = scores.new_zeros((queries or scores.shape[1], *size), dtype=torch.float32)
        total = self.total[start : start + scores.shape[1]]
        for window, box in zip(scores, boxes, strict=True):
            total[:, box.y1 : box.y2, box.x1 : box.x2] += window
        self.boxes += boxes if start == 0 else ()

    def result(self) -> Tensor:
        """Return the mean, float (Q, H, W); the sums are divided in place, to save memory."""
        count = np.zeros(self.total.shape[1:], np.float32)
        for box in self.boxes:
            box.of(count)[...] += 1
        return self.total.div_(upload(count, self.total.device))
