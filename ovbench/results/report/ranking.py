"""What costs a run its score: images by loss of mIoU, the largest confusions.

The loss of an image is how much the mIoU of the whole run would rise if this one image were labelled perfectly, all
others as they were: with I, U and L the summed intersections, unions and label pixels of class c, and i, u, l those of
the image, IoU_c = I / U becomes (I - i + l) / (U - u + l). Only classes with pixels in the image change. A class
whose union was this image's wrong prediction alone leaves the mean, as it would in a run that had not made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ovbench.metrics.confusion import Confusion, PixelCounts
from ovbench.metrics.interval import image_iou, stack_counts

MOST_CONFUSIONS = 300  # pairs of classes by pixels, and again by share
PER_CLASS = 5  # and of every true and every predicted class


class Images(NamedTuple):
    """Per image, f64[n], fractions: ``loss`` of mIoU, the image's own mean IoU, and the share of its labelled pixels
    that is ``wrong``; NaN where an image has no labelled pixel."""

    loss: np.ndarray
    miou: np.ndarray
    wrong: np.ndarray


class Pair(NamedTuple):
    """``pixels`` of the class with index ``label`` that were predicted as ``predicted`` (one past the last class:
    outside of them), and their share of all pixels of that label."""

    label: int
    predicted: int
    pixels: int
    share: float


def rank_images(counts: Sequence[PixelCounts], classes: int) -> Images:
    """Every image's part in what is lost. Time and memory grow with the non-zero counts."""
    wrong = np.array([_wrong(c, classes) for c in counts], dtype=np.float64)
    stacked = stack_counts(counts, classes)
    return Images(loss_of_images(counts, classes), image_iou(stacked), wrong)


def loss_of_images(counts: Sequence[PixelCounts], classes: int) -> np.ndarray:
    """f64[n] >= 0: mIoU with the image labelled perfectly minus mIoU, see the head of this file."""
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
    """Sparse i64[n, c]: label pixels of every class. They are what a perfect prediction hits."""
    perfect = [PixelCounts(c.label, c.label, c.pixels) for c in counts]
    return stack_counts(perfect, classes).intersection


def _at(table, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values of a sparse table at these places, i64."""
    return np.asarray(table[rows, columns], dtype=np.int64).ravel()


def _wrong(counts: PixelCounts, classes: int) -> float:
    """As 1 - aAcc: pixels whose label is none of the classes count nowhere."""
    total = counts.pixels[counts.label < classes].sum()
    missed = counts.pixels[(counts.label < classes) & (counts.label != counts.predicted)].sum()
    return float(missed / total) if total else float("nan")


def confusions(counts: Sequence[PixelCounts], classes: int) -> list[Pair]:
    """Pairs of true and predicted class that are worth looking at, most pixels first: the largest by pixels, the
    largest by share of the true class, and the largest few of every true and of every predicted class."""
    total = Confusion(classes)
    for one in counts:
        total.add(one)
    matrix = total.matrix[:-1]
    labelled = matrix.sum(1)
    rows, columns = matrix.nonzero()
    rows, columns = rows[rows != columns], columns[rows != columns]
    pixels = matrix[rows, columns]
    share = pixels / labelled[rows]
    chosen = {*_largest(pixels, MOST_CONFUSIONS), *_largest(share, MOST_CONFUSIONS)}
    chosen |= {*_largest_of_each(pixels, rows), *_largest_of_each(pixels, columns)}
    made = [Pair(int(rows[n]), int(columns[n]), int(pixels[n]), float(share[n])) for n in chosen]
    return sorted(made, key=lambda pair: (-pair.pixels, pair.label, pair.predicted))


def _largest_of_each(values: np.ndarray, groups: np.ndarray) -> list[int]:
    order = np.lexsort((-values, groups))
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    return order[place < PER_CLASS].tolist()


def _largest(values: np.ndarray, most: int) -> list[int]:
    return np.argsort(-values, kind="stable")[:most].tolist()
