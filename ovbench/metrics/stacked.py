"""Stack the counts of images in sparse tables, one row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array

from ovbench.metrics.confusion import ClassPixels, PixelCounts
from ovbench.metrics.extra_counts import ExtraCounts, table_width


class ImageCounts(NamedTuple):
    """Counts per image and class.

    Attributes:
        intersection: Sparse int64 (N, C), pixels whose label and prediction are the class.
        union: Sparse int64 (N, C), pixels whose label or prediction is the class.
    """

    intersection: csr_array
    union: csr_array


def stack_counts(images: Sequence[PixelCounts], classes: int) -> ImageCounts:
    """Collect the counts of images, one row per image.

    A pixel whose label or prediction is outside the classes counts only in the union of the other one's class.

    Args:
        images: The counts of every image.
        classes: Number of classes C.

    Returns:
        Intersections and unions, (N, C).
    """
    by_class = stack_by_class(images, classes)
    return ImageCounts(by_class.intersection, by_class.union)


def stack_by_class(images: Sequence[PixelCounts], classes: int) -> ClassPixels:
    """Collect the counts of images by class, each field sparse int64 (N, C); see `stack_counts`."""
    rows, label, predicted, pixels = flat_counts(images)
    shape = (len(images), classes)

    def table(kept: np.ndarray, column: np.ndarray) -> csr_array:
        return csr_array(coo_array((pixels[kept], (rows[kept], column[kept])), shape=shape))

    hit = table((label == predicted) & (label < classes), label)
    labelled, guessed = table(label < classes, label), table(predicted < classes, predicted)
    return ClassPixels(hit, csr_array(labelled + guessed - hit), guessed, labelled)


def flat_counts(images: Sequence[PixelCounts]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return image, label, prediction and pixels of all counts, each int64 (M,)."""
    rows = np.repeat(np.arange(len(images)), [len(counts.pixels) for counts in images])
    label, predicted, pixels = (
        np.concatenate([np.asarray(counts[field], dtype=np.int64) for counts in images] or [np.zeros(0, np.int64)])
        for field in range(3)
    )
    return rows, label, predicted, pixels


def counts_in_order(entries: Mapping[str, PixelCounts], ids: Sequence[str], classes: int) -> ImageCounts:
    """Collect the counts of chosen images in a given order.

    Args:
        entries: The counts by image id.
        ids: The image ids.
        classes: Number of classes C.

    Returns:
        Intersections and unions, one row per id.
    """
    return stack_counts([entries[i] for i in ids], classes)


class CountedImages:
    """The counts of N images, in tables by class that are made once.

    Attributes:
        pixels: The pixel counts of every image.
        classes: Number of classes C.
        extra: Other counts of every image, by their name.
    """

    def __init__(
        self, pixels: Sequence[PixelCounts], classes: int, extra: Mapping[str, Sequence[ExtraCounts]] | None = None
    ):
        self.pixels, self.classes, self.extra = pixels, classes, extra or {}
        self._tables: dict[str, ClassPixels] = {}

    def by_class(self, counts: str) -> ClassPixels:
        """Return the tables of "pixels" or of extra counts, each sparse int64 (N, K).

        Raises:
            KeyError: If the images do not have these counts.
        """
        if counts not in self._tables:
            if counts in self.extra:
                self._tables[counts] = stack_extra(self.extra[counts], table_width(counts, self.classes))
            elif counts == "pixels":
                self._tables[counts] = stack_by_class(self.pixels, self.classes)
            else:
                raise KeyError(counts)
        return self._tables[counts]


def stack_extra(images: Sequence[ExtraCounts], width: int) -> ClassPixels:
    """Collect extra counts, each field sparse int64 (N, K)."""
    rows = np.repeat(np.arange(len(images)), [len(counts.column) for counts in images])
    index, hit, predicted, labelled = (
        np.concatenate([np.asarray(counts[field], np.int64) for counts in images] or [np.zeros(0, np.int64)])
        for field in range(4)
    )

    def table(values: np.ndarray) -> csr_array:
        return csr_array(coo_array((values, (rows, index)), shape=(len(images), width)))

    return ClassPixels(table(hit), table(predicted + labelled - hit), table(predicted), table(labelled))
