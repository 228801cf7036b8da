"""Compute confidence intervals of scores over images with the delete-one jackknife.

An interval estimates mIoU on other images of the same distribution. Every image is left out once; the changes of
the IoU of each class give the variance and the bias of the mean. The set of classes in the mean does not change: a
class whose only image is left out keeps its IoU.

Why not the percentiles of a bootstrap: with many rare classes, a resample lacks some of them and repeats the images of
others. Then all resamples are on one side of the estimate and the interval excludes it (847 classes, 5,000 images:
27.60 with 26.99 to 27.54). BCa and the basic bootstrap have the same fault. In simulations
(scripts/bench/interval_coverage.py) both cover less than the form below, which also needs no random numbers:

    IoU_c = I_c / U_c             D_nc = (IoU_c - IoU_c without image n) / K         K classes in the mean, N images
    D_n   = sum_c D_nc            bias = -(N - 1) / N sum_n D_n
    variance = (N - 1) / N sum_n (D_n - mean D)^2 + variance of the classes seen in one image
    interval = mIoU -+ t(N - 1) sqrt(variance + bias^2)

A class seen in one image has no jackknife: its IoU is assumed to vary as the IoU of single images varies in the classes
with several images. (The difference of two runs does not need this: its intervals cover enough.) The bias, which a
ratio of sums has, widens the interval and does not shift it, so an interval always contains its estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.special import stdtr, stdtrit

from ovbench.metrics.stacked import ImageCounts

LEVEL = 0.95
FEWEST_IMAGES = 10  # with fewer images the simulated coverage is below 90 %
MOST_SEEN_ONCE = 0.5  # fraction of the classes in the mean; the spread of such classes is not known
ROUNDING = 1e-12  # a smaller standard error is 0


class Interval(NamedTuple):
    """A 95 % interval.

    Attributes:
        low: Lower bound, not below the smallest possible value.
        high: Upper bound, not above 1.
        half: Half the width before the bounds are cut.
    """

    low: float
    high: float
    half: float


class Estimate(NamedTuple):
    """A score with its interval.

    Attributes:
        value: The score, a fraction.
        interval: The interval, or None.
        why: The reason if there is no interval.
    """

    value: float
    interval: Interval | None
    why: str = ""


class Influence(NamedTuple):
    """How a score changes if an image is left out.

    Attributes:
        value: The score over all images; NaN if there is nothing to score.
        change: float64 (N,), the score minus the score without the image.
        known: bool (C,), classes in the mean.
        once: bool (C,), those with pixels in one image only.
        alone: Variance that the classes in ``once`` add, see the docstring of this module.
    """

    value: float
    change: np.ndarray
    known: np.ndarray
    once: np.ndarray
    alone: float


class Difference(NamedTuple):
    """The change from one run to another on the same images.

    Attributes:
        miou: Change of mIoU.
        interval: Its interval, or None.
        why: The reason if there is no interval.
        iou: float64 (C,), change of IoU; NaN for a class without pixels in one of the runs.
        p_value: float64 (C,), corrected for the number of classes (Benjamini-Hochberg); NaN as in ``iou``.
    """

    miou: float
    interval: Interval | None
    why: str
    iou: np.ndarray
    p_value: np.ndarray


class Jackknife(NamedTuple):
    """The changes if an image is left out, see the docstring of this module.

    Attributes:
        iou: float64 (C,), IoU over all images; NaN for a class without pixels.
        seen: int64 (C,), number of images with pixels of the class.
        change: Sparse float64 (N, C), IoU minus IoU without the image; 0 if no other image has the class.
        spread: Sparse float64 (N, C), IoU in the image minus IoU, scaled to a sample deviation.
        several: Sparse int64 (N, C), 1 where ``spread`` is known: in classes seen in several images.
    """

    iou: np.ndarray
    seen: np.ndarray
    change: csr_array
    spread: csr_array
    several: csr_array

    @property
    def known(self) -> np.ndarray:
        """Classes in the mean, bool (C,)."""
        return self.seen > 0

    @property
    def miou(self) -> float:
        """Mean IoU over the known classes; NaN if there are none."""
        return float(self.iou[self.known].mean()) if self.known.any() else float("nan")


def jackknife(counts: ImageCounts) -> Jackknife:
    """Leave out every image once.

    Time and memory grow with the number of non-zero counts.

    Args:
        counts: The counts of N images.

    Returns:
        The changes, (N, C).
    """
    shape = counts.union.shape
    whole = _sums([counts])
    rows, columns, change, spread, several = _changes(counts, whole)

    def table(values: np.ndarray, kept: np.ndarray | slice = slice(None)) -> csr_array:
        return csr_array(coo_array((values[kept], (rows[kept], columns[kept])), shape=shape))

    ones = np.ones(len(rows), np.int64)
    return Jackknife(whole.iou, whole.seen, table(change), table(spread, several), table(ones, several))


class _Sums(NamedTuple):
    """Sums of union and intersection over all images, float64 (C,), and the images with the class, int64 (C,)."""

    union: np.ndarray
    hit: np.ndarray
    seen: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.hit / self.union


def _sums(blocks: Iterable[ImageCounts]) -> _Sums:
    found = []
    for counts in blocks:
        classes = counts.union.shape[1]
        _, columns, union, hit = _entries(counts)
        summed = [np.bincount(columns, weights, classes) for weights in (union, hit)]
        found.append((*summed, np.bincount(columns, minlength=classes)))
    return _Sums(*(np.sum(parts, axis=0) for parts in zip(*found, strict=True)))


def _changes(counts: ImageCounts, whole: _Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return image, class, change and spread of non-empty unions, and whether the spread is known; see `Jackknife`."""
    rows, columns, union, hit = _entries(counts)
    iou, seen = whole.iou, whole.seen
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = whole.union[columns] - union
        change = np.where(rest > 0, (hit - iou[columns] * union) / rest, 0.0)
        spread = (hit / union - iou[columns]) * np.sqrt(seen / (seen - 1))[columns]
    return rows, columns, change, spread, seen[columns] > 1


def _entries(counts: ImageCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return image, class, union and intersection of non-empty unions, sorted by image and class."""
    table = counts.union.tocoo()
    kept = table.data > 0
    rows, columns, union = table.row[kept], table.col[kept], table.data[kept].astype(np.float64)
    if not len(rows):
        return rows, columns, union, union
    return rows, columns, union, np.asarray(counts.intersection[rows, columns], dtype=np.float64).ravel()


def miou_interval(counts: ImageCounts) -> Estimate:
    """Return mIoU over all images and its 95 % interval.

    There is no interval for fewer than 10 images, if more than half of the classes in the mean have pixels in one
    image only, or if no image differs from the others (mIoU of 0 or 1).

    Args:
        counts: The counts of all images.

    Returns:
        The estimate, with the reason if there is no interval.
    """
    return estimate(mean_influence(lambda: [counts]))


def mean_influence(blocks: Callable[[], Iterable[ImageCounts]], divisor: int | None = None) -> Influence:
    """Return the influence of every image on the mean of intersection / union over classes.

    Args:
        blocks: Returns the counts of some images after the other; it is called twice.
        divisor: Number by which the sum over classes is divided; None for the number of classes with a union.
    """
    whole = _sums(blocks())
    known, once = whole.seen > 0, whole.seen == 1
    count = int(known.sum()) if divisor is None else divisor
    changes, squares, number = [], 0.0, 0
    for counts in blocks():
        rows, _, change, spread, several = _changes(counts, whole)
        images = counts.union.shape[0]
        changes.append(np.bincount(rows, change, images))
        squares += np.bincount(rows[several], spread[several] ** 2, images).sum()
        number += int(several.sum())
    change = np.concatenate(changes)
    if not known.any():
        return Influence(float("nan"), change, known, once, 0.0)
    value = float(whole.iou[known].mean()) if divisor is None else float(whole.iou[known].sum()) / count
    alone = once.sum() * float(squares) / max(number, 1) / count**2
    return Influence(value, change / count, known, once, float(alone))


def estimate(one: Influence) -> Estimate:
    """Return a score with its 95 % interval; see `miou_interval` for when there is none."""
    images = len(one.change)
    why = _why_none(images, one.once, one.known)
    if why:
        return Estimate(one.value, None, why)
    error = _error(one.change.sum(), (one.change**2).sum(), images, one.alone)
    if error < ROUNDING:
        return Estimate(one.value, None, "no image differs from the others")
    return Estimate(one.value, _interval(one.value, error, images, 0.0))


def difference(before: Influence, after: Influence) -> Estimate:
    """Return the change of a score between two runs on the same images, with its paired 95 % interval.

    Both runs leave out the same image, so the difficulty of an image cancels. There is no interval if `estimate` gives
    none, but equal runs have the interval 0 to 0.

    Args:
        before: The influence in the first run.
        after: The influence in the second run, with the images in the same order.
    """
    images, value = len(before.change), after.value - before.value
    why = _why_none(images, before.once | after.once, before.known | after.known)
    if why:
        return Estimate(value, None, why)
    change = after.change - before.change
    error = _error(change.sum(), (change**2).sum(), images)
    return Estimate(value, _interval(value, error, images, -1.0))


def paired_difference(before: ImageCounts, after: ImageCounts) -> Difference:
    """Return the difference ``after`` minus ``before`` of two runs on the same images.

    Both runs leave out the same image, so the difficulty of an image cancels. Each run keeps its own classes in the
    mean. There is no interval if `miou_interval` gives none, but equal runs have the interval 0 to 0.

    Args:
        before: The counts of the first run.
        after: The counts of the second run, with the images in the same order.
    """
    runs = [jackknife(before), jackknife(after)]
    change = runs[1].iou - runs[0].iou
    moments = _of_classes(runs[1].change - runs[0].change)
    p_value = _p_values(change, moments, _seen_in_either(before, after), before.union.shape[0])
    mean = difference(mean_influence(lambda: [before]), mean_influence(lambda: [after]))
    return Difference(mean.value, mean.interval, mean.why, change, p_value)


def iou_intervals(counts: ImageCounts) -> np.ndarray:
    """Return the 95 % interval of the IoU of every class.

    The degrees of freedom are the number of images with the class, minus 1.

    Args:
        counts: The counts of all images.

    Returns:
        float64 (C, 2), lower and upper bound; NaN for a class with pixels in fewer than two images or with the same
        IoU in all of them.
    """
    one = jackknife(counts)
    error = _error(*_of_classes(one.change), one.change.shape[0])
    half = stdtrit(np.maximum(one.seen - 1, 1), (1 + LEVEL) / 2) * error
    bounds = np.stack([one.iou - half, one.iou + half], 1).clip(0, 1)
    return np.where(((one.seen > 1) & (error > ROUNDING))[:, None], bounds, np.nan)


def image_iou(counts: ImageCounts) -> np.ndarray:
    """Return the mean IoU of every single image.

    Args:
        counts: The counts of N images.

    Returns:
        float64 (N,), the mean over the classes with pixels in the image; 0 for an image without pixels.
    """
    rows, _, union, hit = _entries(counts)
    images = counts.union.shape[0]
    return np.bincount(rows, hit / union, images) / np.bincount(rows, minlength=images).clip(min=1)


def _why_none(images: int, alone: np.ndarray, known: np.ndarray) -> str:
    """Return why there is no interval; empty if there is one."""
    if images < FEWEST_IMAGES:
        return f"fewer than {FEWEST_IMAGES} images"
    if not known.any():
        return "no pixel was scored"
    if alone.sum() > MOST_SEEN_ONCE * known.sum():
        return f"{alone.sum()} of {known.sum()} classes occur in one image only"
    return ""


def _error(total, squares, images: int, alone: float = 0.0):
    """Return sqrt(variance + bias^2) from the sum of the changes and the sum of their squares."""
    images = max(images, 1)
    scale = (images - 1) / images
    variance = scale * np.maximum(squares - total**2 / images, 0) + alone
    return np.sqrt(variance + (scale * total) ** 2)


def _interval(value: float, error: float, images: int, lowest: float) -> Interval:
    half = float(stdtrit(images - 1, (1 + LEVEL) / 2) * error)
    return Interval(max(value - half, lowest), min(value + half, 1.0), half)


def _of_classes(change: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums over images of the changes of every class and of their squares, float64 (C,) each."""
    return np.asarray(change.sum(0)).ravel(), np.asarray(change.power(2).sum(0)).ravel()


def _seen_in_either(before: ImageCounts, after: ImageCounts) -> np.ndarray:
    """Return the number of images with pixels of a class in one of the runs, int64 (C,)."""
    shape = before.union.shape
    return np.bincount((before.union + after.union).tocoo().col, minlength=shape[1])


def _p_values(change: np.ndarray, moments: tuple[np.ndarray, np.ndarray], seen: np.ndarray, images: int) -> np.ndarray:
    """Return the p-values of two-sided t-tests of no change.

    With m images no p-value is below 2^(1 - m), the smallest one of an exact permutation test.
    """
    known = ~np.isnan(change)
    if not known.any():
        return np.full(len(change), np.nan)
    error, freedom = _error(*moments, images)[known], np.maximum(seen[known] - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(change[known] == 0, 0.0, np.abs(change[known]) / error)
    corrected = np.full(len(change), np.nan)
    p = np.maximum(2 * stdtr(freedom, -t), np.exp2(1.0 - seen[known]))
    corrected[known] = _benjamini_hochberg(p.clip(max=1))
    return corrected


def _benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Return p-values float64 (N,) that control the false discovery rate, as scipy.stats does, whose import is slow."""
    order = p.argsort()[::-1]
    scaled = np.minimum.accumulate(p[order] * (len(p) / np.arange(len(p), 0, -1)))
    corrected = np.empty_like(p)
    corrected[order] = scaled.clip(0, 1)
    return corrected
