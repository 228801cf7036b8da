"""Masks for a grid of points, as the automatic mask generator of segment-anything makes them.

They are the same masks in the same order (of equal predicted IoU: the order of the points), but stay on the device:
nothing is encoded as run lengths, and the host waits a few times per image instead of several times per mask. A mask is
kept as its low-resolution logits and enlarged when its pixels are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ovbench.utils.upload import upload

BATCH = 64  # points decoded at once
FILTERED_TOGETHER = 512  # points whose logits are in memory before the first filter; for each filter the host waits
PIXELS = 2**25  # of enlarged masks at once
OFFSET = 1.0  # of the thresholds whose masks the stability score compares
OVERLAP = 0.7  # largest IoU of the boxes of two masks


class PointModel(Protocol):
    """A model that segments what is at a point.

    Attributes:
        device: Its device.
        side: Side of the square that an image is scaled to or padded to.
        threshold: Pixels whose logit is above it belong to a mask.
    """

    device: torch.device
    side: int
    threshold: float

    def embed(self, image: np.ndarray) -> Any:
        """Return the embedding of an RGB image uint8 (H, W, 3)."""

    def scaled(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return points (x, y), float64 (P, 2) in pixels of an image of ``size``, as `decode` expects them."""

    def decode(self, embedded: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask logits (P, K, h, w) at a low resolution and predicted IoU float32 (P, K) of points (P, 2)."""

    def enlarge(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (N, h, w) of `decode` as float32 (N, H, W) at the size of the image."""


class PointMasks(NamedTuple):
    """The masks of an image, best predicted IoU first.

    Attributes:
        low: Low-resolution logits (N, h, w).
        areas: Pixels of each mask, int64 (N,).
    """

    low: Tensor
    areas: Tensor


class Candidates(NamedTuple):
    """Masks before overlapping ones are removed: `PointMasks` with predicted IoU (N,) and boxes int64 (N, 4)."""

    low: Tensor
    areas: Tensor
    iou: Tensor
    boxes: Tensor


@torch.no_grad()
def point_masks(model: PointModel, image: np.ndarray, *, points: int, iou: float, stability: float) -> PointMasks:
    """Segment an image at a grid of points.

    In memory are at most the low-resolution logits of the candidates twice, those of 512 points, and 2**25 pixels of
    enlarged masks (one mask, if it is larger).

    Args:
        model: The model.
        image: uint8 (H, W, 3), RGB.
        points: Points per side.
        iou: Predicted IoU that a mask must exceed; 0 or less keeps all.
        stability: Smallest stability score; 0 or less keeps all.

    Returns:
        The masks.
    """
    from segment_anything.utils.amg import build_point_grid
    from torchvision.ops import nms

    size = image.shape[:2]
    embedded = model.embed(image)
    places = model.scaled(build_point_grid(points) * np.array(size[::-1]), size).astype(np.float32)
    found = []
    for some in upload(places, model.device).split(FILTERED_TOGETHER):
        low, predicted = _decoded(model, embedded, some)
        if iou > 0:
            kept = (predicted > iou).nonzero().flatten()
            low, predicted = low[kept], predicted[kept]
        found.append(_measured(model, low, predicted, size, stability))
    all_found = Candidates(*map(torch.cat, zip(*found, strict=True)))
    kept = nms(all_found.boxes.float(), all_found.iou, OVERLAP)
    return PointMasks(all_found.low[kept], all_found.areas[kept])


def enlarged(model: PointModel, low: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the logits of masks float32 (n, H, W), a few at once: an image may have thousands of masks."""
    count = max(PIXELS // max(size[0] * size[1], model.side**2), 1)
    for start in range(0, len(low), count):
        yield model.enlarge(low[start : start + count], size)


def region_map(model: PointModel, image: np.ndarray, *, points: int, iou: float, stability: float) -> np.ndarray:
    """Paint the masks of an image in ascending area; see `point_masks` for the arguments.

    Returns:
        int32 (H, W), see `ovbench.regions.paint.paint_masks`.
    """
    from ovbench.regions.paint import paint_masks

    size = image.shape[:2]
    low, areas = point_masks(model, image, points=points, iou=iou, stability=stability)
    masks = (logits > model.threshold for logits in enlarged(model, low, size))
    return paint_masks(masks, areas, size).cpu().numpy()


def _decoded(model: PointModel, embedded: Any, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the low-resolution logits and predicted IoU of all masks of points."""
    low, predicted = zip(*(model.decode(embedded, batch) for batch in points.split(BATCH)), strict=True)
    return torch.cat(low).flatten(0, 1), torch.cat(predicted).flatten()


def _measured(model: PointModel, low: Tensor, predicted: Tensor, size: tuple[int, int], stability: float) -> Candidates:
    """Return the masks that are stable, with area and box.

    The generator also drops masks at the edge of a crop; the whole image, its only crop, has no such edge.
    """
    from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

    scores, areas = predicted.new_empty(len(low)), low.new_empty(len(low), dtype=torch.int64)
    boxes, start = low.new_empty((len(low), 4), dtype=torch.int64), 0
    for logits in enlarged(model, low, size):
        part = slice(start, start := start + len(logits))
        scores[part] = calculate_stability_score(logits, model.threshold, OFFSET)
        masks = logits > model.threshold
        areas[part], boxes[part] = masks.sum(-1, dtype=torch.int32).sum(-1), batched_mask_to_box(masks)
    found = Candidates(low, areas, predicted, boxes)
    if stability <= 0:
        return found
    kept = (scores >= stability).nonzero().flatten()
    return Candidates(*(values[kept] for values in found))
