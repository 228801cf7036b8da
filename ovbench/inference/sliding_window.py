"""Sliding windows: where they lie, how they are cut and padded, and how their scores are merged.

The geometry is mmsegmentation's (``EncoderDecoder.slide_inference``): rows and columns of windows at multiples of
the stride, the last of each pushed back inside the image. Sizes are ``(h, w)``, boxes half-open ``(y1, x1, y2, x2)``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.ops import Pad


class Box(NamedTuple):
    """A half-open rectangle in pixels of the resized image."""

    y1: int
    x1: int
    y2: int
    x2: int

    @property
    def size(self) -> tuple[int, int]:
        return self.y2 - self.y1, self.x2 - self.x1

    def of(self, image: Tensor) -> Tensor:
        """Its part of [..., H, W]: a view [..., h, w]."""
        return image[..., self.y1 : self.y2, self.x1 : self.x2]


def window_grid(size: tuple[int, int], crop: int, stride: int) -> list[Box]:
    """Windows in scan order. ``crop`` 0 is one window over the whole image; a side shorter than ``crop`` gives one
    window of that side's length."""
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
    """Padding that brings both sides up to a multiple; the smaller half goes to the left and to the top.
    ``multiple`` 0 is no padding."""
    if multiple == 0:
        return Pad(0, 0, 0, 0)
    extra_h, extra_w = (-side % multiple for side in size)
    return Pad(extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)


def cut(image: Tensor, boxes: list[Box], pad: Pad, value: float = 0) -> Tensor:
    """Windows of one size as a batch: ``[..., H, W] -> [b, ..., h, w]``, padded with ``value``."""
    return stack([box.of(image) for box in boxes], pad, value)


def stack(windows: list[Tensor], pad: Pad, value: float = 0) -> Tensor:
    """Windows ``[..., h, w]`` of one size as a batch ``[b, ..., h, w]``, padded with ``value``."""
    batch = torch.stack(windows)
    return F.pad(batch, tuple(pad), value=value) if any(pad) else batch


class WindowMean:
    """The mean of overlapping window scores, summed in fp32: ``add`` every window, then take ``result()``, once.

    ``size`` None is that of the only window.
    """

    def __init__(self, size: tuple[int, int] | None):
        self.size = size
        self.total: Tensor | None = None
        self.count: Tensor | None = None

    def add(self, scores: Tensor, boxes: list[Box], start: int = 0, queries: int | None = None) -> None:
        """Add window scores f[b, q, h, w] lying at ``boxes``; these may be of the queries from ``start`` on only, of
        ``queries`` in all."""
        if self.total is None:
            size = self.size or tuple(scores.shape[2:])
            self.total = scores.new_zeros((queries or scores.shape[1], *size), dtype=torch.float32)
            self.count = scores.new_zeros(size, dtype=torch.float32)
        total = self.total[start : start + scores.shape[1]]
        for window, box in zip(scores, boxes, strict=True):
            total[:, box.y1 : box.y2, box.x1 : box.x2] += window
            if start == 0:
                self.count[box.y1 : box.y2, box.x1 : box.x2] += 1

    def result(self) -> Tensor:
        """The sums themselves are divided: a second map of every query would double the memory."""
        return self.total.div_(self.count)
