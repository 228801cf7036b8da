"""One image as a method sees it: brought to its size, cut into windows that are gathered in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ovbench.inference.sliding_window import Box, stack
from ovbench.methods.base import Batch
from ovbench.methods.ops import Pad

PAD_REGION = 10000  # the official id of padded pixels; moved up where a region map uses it itself
FEWEST_SLOTS = 32

Note = Callable[[str, Any], None]


class Fragment(NamedTuple):
    """A part of a quantity, noted when it is computed: ``values`` at ``place`` of a tensor of ``size``."""

    values: Tensor
    place: tuple[slice, ...]
    size: tuple[int, ...]


class WindowedImage(NamedTuple):
    """One image: ``image`` f[3, h, w] resized and normalised, ``original`` its size (H, W) before, ``regions``
    i64[H, W] at that size and ``resized_regions`` i64[h, w]; ``boxes`` its windows in scan order, all of one size, and
    what each is padded by. ``note`` hears of intermediate quantities, of large ones by `Fragment`."""

    image: Tensor
    original: tuple[int, int]
    regions: Tensor | None
    resized_regions: Tensor | None
    pad_region: int
    boxes: list[Box]
    pad: Pad
    note: Note


class Window(NamedTuple):
    """A window of an image."""

    prepared: WindowedImage
    box: Box


def pad_region(regions: np.ndarray | None) -> int:
    """The id of padded pixels beside a region map."""
    return PAD_REGION if regions is None else max(PAD_REGION, int(regions.max()) + 1)


def region_slots(regions: np.ndarray | None) -> int | None:
    """A power of two that no window of the map has more regions than, padding included: images of like maps share it,
    and it depends on none but their own."""
    if regions is None:
        return None
    slots, count = FEWEST_SLOTS, _distinct(regions) + 1
    while slots < count:
        slots *= 2
    return slots


def _distinct(regions: np.ndarray) -> int:
    low, span = int(regions.min()), int(regions.max()) - int(regions.min()) + 1
    if span > regions.size:
        return len(np.unique(regions))
    seen = np.zeros(span, bool)
    seen[regions - low] = True
    return int(seen.sum())


def gather(windows: Sequence[Window], *, slots: int | None = None, context: Any = None) -> Batch:
    """A batch of windows of one shape. Those of one image alone come with its whole region map and hear its notes;
    ``slots`` is given where they come from several."""
    first, alone = windows[0].prepared, slots is None and all(w.prepared is windows[0].prepared for w in windows)
    regions = None
    if first.resized_regions is not None:
        regions = stack([w.box.of(w.prepared.resized_regions) for w in windows], first.pad, first.pad_region)
    batch = Batch(
        windows=stack([w.box.of(w.prepared.image) for w in windows], first.pad),
        regions=regions,
        pad_region=first.pad_region,
        region_slots=slots,
    )
    if alone:
        batch.region_map, batch.context, batch.note = first.regions, context, first.note
    return batch
