"""Windows of images in a batch, with their regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ovbench.inference.sliding_window import stack
from ovbench.methods.base import Batch, WindowedImage
from ovbench.methods.ops import Box
from ovbench.regions.ids import count_ids, resized_ids

PAD_REGION = 10000  # as in the official code; a larger id if a region map has this one
FEWEST_SLOTS = 32


class Fragment(NamedTuple):
    """Some values of a large quantity, noted when they are computed.

    Attributes:
        values: The values.
        index: Their position in the whole tensor.
        size: Shape of the whole tensor.
    """

    values: Tensor
    index: tuple[slice, ...]
    size: tuple[int, ...]


class Window(NamedTuple):
    """A window of an image."""

    prepared: WindowedImage
    box: Box


def pad_region(regions: np.ndarray | None) -> int:
    """Return the id of padded pixels, which no region of the map has."""
    return PAD_REGION if regions is None else max(PAD_REGION, int(regions.max()) + 1)


def region_slots(regions: np.ndarray | None, size: tuple[int, int], boxes: Sequence[Box]) -> int | None:
    """Return a power of two that is at least the number of regions in any window, padding included.

    It depends only on this map; images with similar maps get the same number, so their windows can be in one batch.

    Args:
        regions: int32 (H, W), the map at the original size.
        size: (h, w) of the resized image.
        boxes: Its windows.
    """
    if regions is None:
        return None
    resized = resized_ids(regions, size)
    slots, count = FEWEST_SLOTS, max(count_ids(resized[box.y1 : box.y2, box.x1 : box.x2]) for box in boxes) + 1
    while slots < count:
        slots *= 2
    return slots


def gather(windows: Sequence[Window], *, slots: int | None = None) -> Batch:
    """Return a batch of windows of one shape.

    Args:
        windows: The windows. If all are of one image, the batch also has its region map, context and note.
        slots: See `Batch.region_slots`; required if the windows are of several images.
    """
    first, alone = windows[0].prepared, slots is None and all(w.prepared is windows[0].prepared for w in windows)
    regions = None
    if first.resized_regions is not None:
        regions = stack([w.box.of(w.prepared.resized_regions) for w in windows], first.pad, first.pad_region)
    batch = Batch(
        windows=stack([w.box.of(w.prepared.resized) for w in windows], first.pad),
        regions=regions,
        pad_region=first.pad_region,
        region_slots=slots,
        boxes=tuple(w.box for w in windows),
        sizes=tuple(w.prepared.size for w in windows),
    )
    if alone:
        batch.region_map, batch.host_regions = first.regions, first.host_regions
        batch.context, batch.note = first.context, first.note
    return batch
