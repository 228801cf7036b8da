"""Images ranked by their loss of mIoU, and the largest confusions.

The loss of an image is the gain in mIoU of the whole run if only this image were labelled perfectly. With I and U the
sums of intersections and unions of class c over all images, and i, u, l the intersection, union and label pixels of the
image, IoU_c = I / U becomes (I - i + l) / (U - u + l). Only classes with pixels in the image change. A class that
has pixels only as a wrong prediction in this image is removed from the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.interval import image_iou
from ovbench.metrics.stacked import stack_counts

MOST_CONFUSIONS = 300  # pairs of classes by pixels, and the same number by fraction
PER_CLASS = 5  # pairs of every true and of every predicted class


class ImageScores(NamedTuple):
    """Three fractions per image, float64 (N,): loss of mIoU, its mean IoU, and its wrong pixels.

    A value is NaN if the image has no labelled pixel.
    """

    loss: np.ndarray
    miou: np.ndarray
    wrong: np.ndarray


class ClassPair(NamedTuple):
    """The pixels of class ``label`` that were predicted as ``predicted``, and their fraction of the class.

    A prediction outside the classes has the index one past the last class.
    """

    label: int
    predicted: int
    pixels: int
    share: float


def rank_images(counts: Sequence[PixelCounts], classes: int) -> ImageScores:
    """Score every image; time and memory grow with the number of non-zero counts."""
    wrong = np.array([_wrong(c, classes) for c in counts], dtype=np.float64)
    stacked = stack_counts(counts, classes)
    return ImageScores(loss_of_images(counts, classes), image_iou(stacked), wrong)


def loss_of_images(counts: Sequence[PixelCounts], classes: int) -> np.ndarray:
    """Return the loss of each image, float64 (N,) >= 0, see the docstring of this module."""
    stacked = stack_counts(counts, classes)
    hit, union = (np.asarray(part.sum(0), dtype=np.int64).ravel() for part in stacked)
    table = stacked.union.tocoo()
    rows, columns, own_union = table.row, table.col, table.data
    if not len(rows):
        return np.zeros(len(counts))
    own_hit, own_label = _at(stacked.intersection, rows, columns), _at(_labelled(counts, classes), rows, columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        before = hit / union
        after_union = union[columns] - own_union + own_label
        after = np.where(after_union > 0, (hit[columns] - own_hit + own_label) / after_union, 0.0)
    known = union > 0
    gained = np.bincount(rows, after - before[columns], minlength=len(counts))
    left = known.sum() - np.bincount(rows, after_union == 0, minlength=len(counts))
    total = before[known].sum()
    mean = total / max(known.sum(), 1)
    return np.where(left > 0, (total + gained) / np.maximum(left, 1) - mean, 0.0).clip(min=0)


def _labelled(counts: Sequence[PixelCounts], classes: int):
    """Return the label pixels, sparse int64 (N, C): the intersections of a perfect prediction."""
    perfect = [PixelCounts(c.label, c.label, c.pixels) for c in counts]
    return stack_counts(perfect, classes).intersection


def _at(table, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the values of a sparse matrix at these indices, int64 (M,)."""
    return np.asarray(table[rows, columns], dtype=np.int64).ravel()


def _wrong(counts: PixelCounts, classes: int) -> float:
    """Return 1 - aAcc of an image; pixels without a class are ignored."""
    total = counts.pixels[counts.label < classes].sum()
    missed = counts.pixels[(counts.label < classes) & (counts.label != counts.predicted)].sum()
    return float(missed / total) if total else float("nan")


def confusions(counts: Sequence[PixelCounts], classes: int) -> list[ClassPair]:
    """Select pairs of true and predicted class, most pixels first.

    Returns:
        The largest by pixels, the largest by fraction of the true class, and some of every true and predicted class.
    """
    size = classes + 1  # the matrix itself would have size * size entries
    label, predicted, counted = (np.concatenate([np.zeros(0, np.int64), *(one[n] for one in counts)]) for n in range(3))
    keys, place = np.unique(label * size + predicted, return_inverse=True)
    pixels, labelled = np.zeros(len(keys), np.int64), np.zeros(size, np.int64)
    np.add.at(pixels, place, counted)
    np.add.at(labelled, label, counted)
    rows, columns = keys // size, keys % size
    wrong = (rows < classes) & (rows != columns)
    rows, columns, pixels = rows[wrong], columns[wrong], pixels[wrong]
    share = pixels / labelled[rows]
    chosen = {*_largest(pixels, MOST_CONFUSIONS), *_largest(share, MOST_CONFUSIONS)}
    chosen |= {*_largest_of_each(pixels, rows), *_largest_of_each(pixels, columns)}
    made = [ClassPair(int(rows[n]), int(columns[n]), int(pixels[n]), float(share[n])) for n in chosen]
    return sorted(made, key=lambda pair: (-pair.pixels, pair.label, pair.predicted))


def _largest_of_each(values: np.ndarray, groups: np.ndarray) -> list[int]:
    order = np.lexsort((-values, groups))
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    return order[place < PER_CLASS].tolist()


def _largest(values: np.ndarray, most: int) -> list[int]:
    return np.argsort(-values, kind="stable")[:most].tolist()
