"""Counts besides those of pixels: in a ledger only if they were asked for, added as integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ovbench.metrics.confusion import AT_ONCE, ClassPixels

BINS = 15  # of calibration
# columns of the table of each name in `ovbench.metrics.count_names.EXTRA`, for C classes
WIDTHS: dict[str, Callable[[int], int]] = {
    "boundary": lambda classes: classes,
    "size": lambda classes: 3 * classes,  # small, medium, large
    "calibration": lambda classes: BINS,
}


class ExtraCounts(NamedTuple):
    """The non-zero counts of one image.

    Attributes:
        column: int64 (M,): the class; for sizes, the size times C plus the class; for calibration, the bin.
        intersection: int64 (M,), pixels that are right.
        predicted: int64 (M,), predicted pixels; for calibration, the sum of their confidence in units of 2^-16.
        labelled: int64 (M,), labelled pixels; for calibration, pixels.
    """

    column: np.ndarray
    intersection: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray


def table_width(name: str, classes: int) -> int:
    """Return the number of columns of a table of counts."""
    return WIDTHS[name](classes)


def sparse(intersection: np.ndarray, predicted: np.ndarray, labelled: np.ndarray) -> ExtraCounts:
    """Return the columns, each int64 (K,), without those that are empty."""
    (found,) = np.nonzero(predicted + labelled)
    return ExtraCounts(found, *(column[found].astype(np.int64) for column in (intersection, predicted, labelled)))


def sum_extra(images: Iterable[ExtraCounts], width: int) -> ClassPixels:
    """Sum extra counts over images, each int64 (K,).

    Raises:
        IndexError: If a count is of another column.
    """
    hit, predicted, labelled = (np.zeros(width, np.int64) for _ in range(3))
    rest = iter(images)
    while some := list(islice(rest, AT_ONCE)):
        column, *values = (np.concatenate(parts) for parts in zip(*some, strict=True))
        for total, added in zip((hit, predicted, labelled), values, strict=True):
            np.add.at(total, column, added)
    return ClassPixels(hit, predicted + labelled - hit, predicted, labelled)


def to_lists(counts: Iterable[np.ndarray]) -> list[list[int]]:
    """Return counts as JSON data."""
    return [column.tolist() for column in counts]


def from_lists(lists: Any) -> ExtraCounts:
    """Return the counts of a line of a ledger.

    Raises:
        ValueError: If the lists do not fit together.
    """
    counts = ExtraCounts(*(np.array(values, dtype=np.int64) for values in lists))
    if len({column.shape for column in counts}) > 1 or counts.column.ndim != 1:
        raise ValueError("extra counts of different lengths")
    return counts
