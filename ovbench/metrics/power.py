"""Estimate how many images show a difference: the width of an interval as a function of the number of images.

The jackknife of N images gives the variance and the bias of a score. With n images of the same distribution, both are
N / n times as large:

    half(n) = t(n - 1) sqrt(variance N / n + (bias N / n)^2)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import stdtrit

from ovbench.metrics.interval import FEWEST_IMAGES, LEVEL, Influence

MOST = 10**7  # images that are considered
USUAL_POWER = 0.8


def needed_images(change: np.ndarray, difference: float, power: float = 0.5) -> int | None:
    """Return the number of images with which a difference is significant.

    Args:
        change: float64 (N,), change of the score, or of the difference of two scores, without each image.
        difference: The difference to show, a fraction.
        power: Probability that an interval excludes 0 if the true difference is this one; with 0.5, an interval is as
            wide as the difference on both sides.

    Returns:
        The smallest number, at least 10; None above ten million.
    """
    images = len(change)
    scale = (images - 1) / images
    variance = max(scale * float((change**2).sum() - change.sum() ** 2 / images), 0.0)
    bias = scale * float(change.sum())

    def shows(count: int) -> bool:
        error = np.sqrt(variance * images / count + (bias * images / count) ** 2)
        quantiles = stdtrit(count - 1, (1 + LEVEL) / 2) + (stdtrit(count - 1, power) if power > 0.5 else 0.0)
        return bool(quantiles * error <= difference)

    return smallest(shows, FEWEST_IMAGES, MOST)


def independent(one: Influence) -> np.ndarray:
    """Return changes, float64 (N,), as those of the difference of two runs that err independently like this one."""
    return np.sqrt(2.0) * one.change


def smallest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the smallest number from ``low`` to ``high`` from which a condition holds, by bisection; None if none."""
    if high < low or not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
