"""Count pixels in sparse integer confusion matrices, which are summed without rounding."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import numpy as np

AT_ONCE = 1000  # images whose counts are added together
IGNORED = 65535  # in label maps, as `ovbench.data.labels` writes them
DENSE = 1 << 24  # entries of a confusion matrix, up to which it is in memory for a moment


class PixelCounts(NamedTuple):
    """The non-zero entries of a confusion matrix.

    A label or a prediction outside the classes has the index ``classes``, one past the last.

    Attributes:
        label: int64 (N,), class in the label map.
        predicted: int64 (N,), class in the prediction.
        pixels: int64 (N,), number of pixels.
    """

    label: np.ndarray
    predicted: np.ndarray
    pixels: np.ndarray


def count_pixels(predicted: np.ndarray, label: np.ndarray, classes: int, *, ignored: int = IGNORED) -> PixelCounts:
    """Count the pixels of every pair of label and prediction.

    Args:
        predicted: Integer (H, W), class indices.
        label: Integer (H, W), class indices.
        classes: Number of classes.
        ignored: Pixels with this label are not counted.

    Raises:
        ValueError: If the shapes differ.
    """
    if predicted.shape != label.shape:
        raise ValueError(f"the prediction has the shape {predicted.shape}, the label {label.shape}")
    size, pairs = classes + 1, _indices(label, classes)
    pairs *= size
    pairs += _indices(predicted, classes)
    np.copyto(pairs, size**2, where=label == ignored)  # one bin more: taking the other pixels out is slower
    if size**2 > DENSE:
        found, counts = np.unique(pairs, return_counts=True)
        found, counts = found[found < size**2], counts[found < size**2]
    else:
        dense = np.bincount(pairs.ravel())[: size**2]
        (found,) = (dense > 0).nonzero()
        counts = dense[found]
    return PixelCounts(found // size, found % size, counts.astype(np.int64))


def _indices(values: np.ndarray, classes: int) -> np.ndarray:
    """Return the values as indices int64, a copy, with ``classes`` for others."""
    if values.dtype.kind == "u":
        return np.minimum(values, min(classes, np.iinfo(values.dtype).max)).astype(np.int64)
    values = values.astype(np.int64)
    return np.where((values < 0) | (values >= classes), classes, values)


class ClassPixels(NamedTuple):
    """Sums of a confusion matrix by class, each int64 (C,); see the properties of `Confusion`."""

    intersection: np.ndarray
    union: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray


def sum_by_class(images: Iterable[PixelCounts], classes: int) -> ClassPixels:
    """Sum the counts of images by class, as `Confusion` does, in memory that grows with the number of classes only.

    Args:
        images: The counts of every image.
        classes: Number of classes C.

    Raises:
        IndexError: If a count is of another class.
    """
    hit, predicted, labelled = (np.zeros(classes + 1, np.int64) for _ in range(3))
    rest = iter(images)
    while some := list(islice(rest, AT_ONCE)):
        label, guess, pixels = (np.concatenate([counts[field] for counts in some]) for field in range(3))
        right = label == guess
        np.add.at(hit, label[right], pixels[right])
        np.add.at(predicted, guess, pixels)
        np.add.at(labelled, label, pixels)
    hit, predicted, labelled = hit[:-1], predicted[:-1], labelled[:-1]
    return ClassPixels(hit, predicted + labelled - hit, predicted, labelled)


class Confusion:
    """A sum of pixel counts.

    Attributes:
        classes: Number of classes C.
        matrix: int64 (C + 1, C + 1), labels in rows, predictions in columns; the last index is "outside the classes".
    """

    def __init__(self, classes: int):
        self.classes = classes
        self.matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)

    def add(self, counts: PixelCounts) -> None:
        """Add the counts of an image."""
        np.add.at(self.matrix, (counts.label, counts.predicted), counts.pixels)

    @property
    def intersection(self) -> np.ndarray:
        """Pixels whose label and prediction are the class, int64 (C,)."""
        return self.matrix.diagonal()[:-1].copy()

    @property
    def predicted(self) -> np.ndarray:
        """Counted pixels that are predicted as the class, also those whose label is no class, int64 (C,)."""
        return self.matrix[:, :-1].sum(0)

    @property
    def labelled(self) -> np.ndarray:
        """Pixels whose label is the class, int64 (C,)."""
        return self.matrix[:-1].sum(1)

    @property
    def union(self) -> np.ndarray:
        """Pixels whose label or prediction is the class, int64 (C,)."""
        return self.predicted + self.labelled - self.intersection
