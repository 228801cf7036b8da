"""How sure a score is: the bootstrap over images, from per-image counts.

An image set is drawn anew, with replacement, many times; every draw is a weight per image, so all draws are one product
of a weight matrix with the sparse counts. mIoU is computed from summed counts in each draw, as it is from all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.stats import false_discovery_control

from ovbench.metrics.counts import PixelCounts

RESAMPLES = 2000
LEVEL = 0.95


class ImageCounts(NamedTuple):
    """Sparse i64[n, c] per image and class: pixels where prediction and label agree, and their union."""

    intersection: csr_array
    union: csr_array


class Interval(NamedTuple):
    """A percentile interval of the bootstrap distribution, and its standard deviation."""

    low: float
    high: float
    deviation: float


class Difference(NamedTuple):
    """The change of mIoU from one run to another on the same images, and per class the change of IoU with its p-value,
    corrected for the number of classes (Benjamini-Hochberg); NaN for a class that neither run has pixels of."""

    miou: float
    interval: Interval
    iou: np.ndarray
    p_value: np.ndarray


def stack_counts(images: Sequence[PixelCounts], classes: int) -> ImageCounts:
    """One row per image; pixels of labels or predictions outside the classes stay in the other's union only."""
    rows = np.repeat(np.arange(len(images)), [len(counts.pixels) for counts in images])
    label, predicted, pixels = (
        np.concatenate([np.asarray(counts[part], dtype=np.int64) for counts in images] or [np.zeros(0, np.int64)])
        for part in range(3)
    )
    shape = (len(images), classes)

    def table(kept: np.ndarray, column: np.ndarray) -> csr_array:
        return csr_array(coo_array((pixels[kept], (rows[kept], column[kept])), shape=shape))

    hit = table((label == predicted) & (label < classes), label)
    labelled, guessed = table(label < classes, label), table(predicted < classes, predicted)
    return ImageCounts(hit, csr_array(labelled + guessed - hit))


def draw_weights(images: int, generator: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each image occurs in each draw, i64[resamples, images]; every row sums to ``images``."""
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples)


def iou_of_draws(counts: ImageCounts, weights: np.ndarray) -> np.ndarray:
    """IoU of every class in every draw, f64[resamples, c]; NaN where the union is empty."""
    hit, union = (np.asarray((part.T @ weights.T).T, dtype=np.float64) for part in counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return hit / union


def miou_of_draws(iou: np.ndarray) -> np.ndarray:
    """Mean over the classes that are not NaN, per draw."""
    known = ~np.isnan(iou)
    return np.where(known, iou, 0).sum(-1) / known.sum(-1).clip(min=1)


def interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """The central part of the values that holds the share ``level`` of them."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high), float(values.std()))


def miou_interval(counts: ImageCounts, generator: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """The bootstrap interval of mIoU over images."""
    weights = draw_weights(counts.union.shape[0], generator, resamples)
    return interval(miou_of_draws(iou_of_draws(counts, weights)))


def paired_difference(
    before: ImageCounts, after: ImageCounts, generator: np.random.Generator, resamples: int = RESAMPLES
) -> Difference:
    """``after`` minus ``before``, the same images drawn for both, so that what makes an image hard cancels."""
    images = before.union.shape[0]
    weights = draw_weights(images, generator, resamples)
    draws = [iou_of_draws(counts, weights) for counts in (before, after)]
    all_images = np.ones((1, images), dtype=np.int64)
    whole = [iou_of_draws(counts, all_images) for counts in (before, after)]
    gap = miou_of_draws(draws[1]) - miou_of_draws(draws[0])
    change = draws[1] - draws[0]
    iou = (whole[1] - whole[0])[0]
    return Difference(
        float((miou_of_draws(whole[1]) - miou_of_draws(whole[0]))[0]), interval(gap), iou, _p_values(change, iou)
    )


def _p_values(change: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Two-sided, from the share of draws on either side of no change; classes without pixels are left out."""
    known = ~np.isnan(observed)
    draws = np.isfinite(change)
    lower = ((change <= 0) & draws).sum(0) + 1
    upper = ((change >= 0) & draws).sum(0) + 1
    p = np.minimum(1.0, 2 * np.minimum(lower, upper) / (draws.sum(0) + 2))
    corrected = np.full(len(observed), np.nan)
    if known.any():
        corrected[known] = false_discovery_control(p[known])
    return corrected


def image_iou(counts: ImageCounts) -> np.ndarray:
    """Every image by itself: mean IoU over the classes with pixels in it, f64[n]."""
    hit, union = counts.intersection.toarray(), counts.union.toarray()
    with np.errstate(divide="ignore", invalid="ignore"):
        return miou_of_draws(hit / union)


def counts_in_order(entries: Mapping[str, PixelCounts], ids: Sequence[str], classes: int) -> ImageCounts:
    """The counts of the images ``ids``, in that order."""
    return stack_counts([entries[i] for i in ids], classes)
