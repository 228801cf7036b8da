"""Scores from pixel counts, by the definition of mmsegmentation's ``IoUMetric`` (1.x)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ovbench.metrics.confusion import Confusion


class Scores(NamedTuple):
    """Fractions; NaN where a class has nothing to score.

    A class neither labelled nor predicted is left out of ``miou``; one that is predicted but nowhere labelled counts
    with an IoU of 0. ``macc`` leaves out every class without a label pixel.
    """

    miou: float
    macc: float
    aacc: float
    iou: np.ndarray
    acc: np.ndarray
    precision: np.ndarray
    dice: np.ndarray


def scores(confusion: Confusion) -> Scores:
    """IoU = I / U, accuracy = I / L, precision = I / P, Dice = 2 I / (P + L), and their means over classes."""
    hit, predicted, labelled = confusion.intersection, confusion.predicted, confusion.labelled
    with np.errstate(divide="ignore", invalid="ignore"):
        iou, acc = hit / confusion.union, hit / labelled
        precision, dice = hit / predicted, 2 * hit / (predicted + labelled)
        total = np.float64(hit.sum()) / labelled.sum()
    return Scores(_mean(iou), _mean(acc), float(total), iou, acc, precision, dice)


def _mean(values: np.ndarray) -> float:
    """Mean over the classes that are not NaN; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
