"""Compute scores from pixel counts as ``IoUMetric`` of mmsegmentation 1.x defines them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ovbench.metrics.confusion import ClassPixels, Confusion


class Scores(NamedTuple):
    """Scores as fractions; NaN for a class without pixels to score.

    Attributes:
        miou: Mean IoU of the classes that are labelled or predicted; a class that is predicted only counts with 0.
        macc: Mean accuracy of the classes that are labelled.
        aacc: Accuracy over all pixels.
        iou: float64 (C,), intersection / union.
        acc: float64 (C,), intersection / labelled pixels.
        precision: float64 (C,), intersection / predicted pixels.
        dice: float64 (C,), 2 intersection / (predicted + labelled pixels).
    """

    miou: float
    macc: float
    aacc: float
    iou: np.ndarray
    acc: np.ndarray
    precision: np.ndarray
    dice: np.ndarray


def scores(confusion: Confusion | ClassPixels) -> Scores:
    """Compute all scores of a confusion matrix.

    Args:
        confusion: The counts of all images, or their sums by class.

    Returns:
        The scores per class and their means.
    """
    hit, predicted, labelled = confusion.intersection, confusion.predicted, confusion.labelled
    with np.errstate(divide="ignore", invalid="ignore"):
        iou, acc = hit / confusion.union, hit / labelled
        precision, dice = hit / predicted, 2 * hit / (predicted + labelled)
        total = np.float64(hit.sum()) / labelled.sum()
    return Scores(_mean(iou), _mean(acc), float(total), iou, acc, precision, dice)


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
