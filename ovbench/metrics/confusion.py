"""Counting pixels: an integer confusion matrix per image, kept sparse, summed without rounding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ovbench.data.labels import IGNORED


class PixelCounts(NamedTuple):
    """The non-zero cells of a confusion matrix, all i64[n]: ``pixels`` of class ``label`` predicted as ``predicted``.

    A label or a prediction outside the classes has the index ``classes`` (one past the last)."""

    label: np.ndarray
    predicted: np.ndarray
    pixels: np.ndarray


def count_pixels(predicted: np.ndarray, label: np.ndarray, classes: int, *, ignored: int = IGNORED) -> PixelCounts:
    """Compare a prediction with a label map of the same shape (any integer type); ``ignored`` pixels count nowhere.

    Raises ValueError where the shapes differ.
    """
    if predicted.shape != label.shape:
        raise ValueError(f"the prediction has the shape {predicted.shape}, the label {label.shape}")
    kept = label != ignored
    rows, columns = (_indices(values[kept], classes) for values in (label, predicted))
    cells = np.bincount(rows * (classes + 1) + columns, minlength=0)
    (found,) = cells.nonzero()
    return PixelCounts(found // (classes + 1), found % (classes + 1), cells[found].astype(np.int64))


def _indices(values: np.ndarray, classes: int) -> np.ndarray:
    values = values.astype(np.int64)
    return np.where((values < 0) | (values >= classes), classes, values)


class Confusion:
    """A sum of pixel counts: i64[classes + 1, classes + 1], labels in rows, predictions in columns, "outside" last."""

    def __init__(self, classes: int):
        self.classes = classes
        self.matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)

    def add(self, counts: PixelCounts) -> None:
        np.add.at(self.matrix, (counts.label, counts.predicted), counts.pixels)

    @property
    def intersection(self) -> np.ndarray:
        """i64[c] pixels whose label and prediction agree."""
        return self.matrix.diagonal()[:-1].copy()

    @property
    def predicted(self) -> np.ndarray:
        """i64[c] kept pixels predicted as the class, those without a class in the label included."""
        return self.matrix[:, :-1].sum(0)

    @property
    def labelled(self) -> np.ndarray:
        """i64[c] pixels that carry the label."""
        return self.matrix[:-1].sum(1)

    @property
    def union(self) -> np.ndarray:
        return self.predicted + self.labelled - self.intersection
