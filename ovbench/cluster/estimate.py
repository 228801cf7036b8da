"""Estimate the seconds per image of a cell: from an earlier record, otherwise from windows and classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config.load import Cell
from ovbench.config.schema import Protocol
from ovbench.evaluation.earlier_cost import earlier_cost

SAMPLED = 32  # images whose size is read
ALL_SIZES = 10_000  # up to so many images, the size of every one is read, so that the largest ones come first
WINDOW_S = 0.008  # a window of 224 pixels in a ViT-B/16 with a second tower, on a GPU in fp32
QUERY_S = 2e-9  # a query for one pixel of the original image
READ_S = 0.02  # an image, its label and its counts
USUAL = (500, 500)


class ImageCost(NamedTuple):
    """The time of an image.

    Attributes:
        seconds: Mean in seconds.
        measured: Whether it was measured.
        each: Time of every image; empty if only the mean is known.
    """

    seconds: float
    measured: bool
    each: tuple[float, ...] = ()


def estimate(
    cell: Cell, queries: int, sizes: Sequence[tuple[int, int]], records: Iterable[tuple[Path, Mapping[str, Any]]]
) -> ImageCost:
    """Return the time of an image.

    Args:
        cell: The resolved settings.
        queries: Number of queries.
        sizes: Sizes (h, w) of all images, or of some.
        records: Earlier records with their files, see `ovbench.evaluation.earlier_cost.earlier_cost`.
    """
    guess = [READ_S + WINDOW_S * windows(size, cell.protocol) + QUERY_S * queries * math.prod(size) for size in sizes]
    mean = sum(guess) / len(guess)
    found = earlier_cost(cell, records)
    if found is None:
        return ImageCost(mean, False, tuple(guess))
    return ImageCost(found.seconds, True, tuple(one * found.seconds / mean for one in guess))


def windows(size: tuple[int, int], protocol: Protocol) -> float:
    """Return the work for an image of size (h, w), as a number of windows of 224 x 224 pixels."""
    factor = protocol.short_side / min(size) if protocol.short_side else 1.0
    factor = min(factor, protocol.long_side / max(size)) if protocol.short_side else factor
    h, w = (round(side * factor) for side in size)
    if not protocol.crop:
        return h * w / 224**2
    rows, columns = (max(math.ceil((side - protocol.crop) / protocol.stride), 0) + 1 for side in (h, w))
    return rows * columns * (protocol.crop / 224) ** 2


def image_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Return the sizes (h, w) of the images, or of some if there are many, from the heads of their files.

    Args:
        paths: The images; for those that cannot be read, which fail in the run, a usual size is returned.
    """
    from ovbench.data.decode import image_size

    some = paths if len(paths) <= ALL_SIZES else paths[:: len(paths) // SAMPLED][:SAMPLED]
    return [image_size(path) or USUAL for path in some] or [USUAL]
