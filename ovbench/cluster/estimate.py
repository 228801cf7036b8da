"""Estimate the seconds per image of a cell: from an earlier record, otherwise from windows and classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config.load import Cell
from ovbench.config.schema import Protocol
from ovbench.evaluation.record import is_record
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json

SAMPLED = 32  # images whose size is read
ALL_SIZES = 10_000  # up to so many images, the size of every one is read, so that the largest ones come first
WINDOW_S = 0.008  # a window of 224 pixels in a ViT-B/16 with a second tower, on a GPU in fp32
QUERY_S = 2e-9  # a query for one pixel of the original image
READ_S = 0.02  # an image, its label and its counts
USUAL = (500, 500)
STAGES = ("read", "regions", "label", "count")  # of a record; the other stages are parts of "label"


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


def earlier_records(out: Path) -> list[dict[str, Any]]:
    """Return the records in a folder that can be read."""
    found = []
    for path in sorted(out.glob("*.json"), key=str) if out.exists() else ():
        try:
            record = read_json(path)
        except InputError:
            continue
        if is_record(record):
            found.append(record)
    return found


def estimate(
    cell: Cell, queries: int, sizes: Sequence[tuple[int, int]], records: Iterable[Mapping[str, Any]]
) -> ImageCost:
    """Return the time of an image.

    Args:
        cell: The resolved settings.
        queries: Number of queries.
        sizes: Sizes (h, w) of all images, or of some.
        records: Earlier records. One with the same settings comes first, then one of the same method and dataset.
    """
    wanted = cell.digest()
    guess = [READ_S + WINDOW_S * windows(size, cell.protocol) + QUERY_S * queries * math.prod(size) for size in sizes]
    mean = sum(guess) / len(guess)
    for same in (lambda r: r["settings_sha256"] == wanted, lambda r: _names(r) == (cell.method, cell.dataset)):
        for record in records:
            seconds, images = record["time"].get("seconds", {}), record["dataset"]["images"]
            if same(record) and images and seconds:
                measured = sum(seconds.get(stage, 0.0) for stage in STAGES) / images
                return ImageCost(measured, True, tuple(one * measured / mean for one in guess))
    return ImageCost(mean, False, tuple(guess))


def _names(record: Mapping[str, Any]) -> tuple[str, str]:
    return record["cell"]["method"], record["cell"]["dataset"]


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
    from PIL import Image, UnidentifiedImageError

    sizes = []
    for path in paths if len(paths) <= ALL_SIZES else paths[:: len(paths) // SAMPLED][:SAMPLED]:
        try:
            with Image.open(path) as image:
                sizes.append((image.height, image.width))
        except (OSError, UnidentifiedImageError):
            sizes.append(USUAL)
    return sizes or [USUAL]
