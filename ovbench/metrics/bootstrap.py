"""How sure a score is: jackknife intervals over images, from per-image counts.

The intervals say where mIoU would lie on other images drawn like these. They are made from the delete-one jackknife:
every image is left out once, and what each class' IoU loses by that gives both the variance and the bias of the mean.
The classes of the mean stay those of all images: a class whose only image is left out keeps its IoU.

Why not the percentiles of a bootstrap: with many rare classes a resample lacks some of them and repeats the images of
others, so that all resamples lie on one side of the estimate and the interval excludes it (847 classes, 5,000 images:
27.60 with 26.99 to 27.54). BCa and the basic form inherit this, as no resample lies beyond the estimate. In simulations
(scripts/bench/interval_coverage.py) both cover less than the form below, which also needs no random numbers:

    IoU_c = I_c / U_c             D_nc = (IoU_c - IoU_c without image n) / K         K classes in the mean, N images
    D_n   = sum_c D_nc            bias = -(N - 1) / N sum_n D_n
    variance = (N - 1) / N sum_n (D_n - mean D)^2 + variance of the classes seen in one image
    interval = mIoU -+ t(N - 1) sqrt(variance + bias^2)

A class seen in one image has no jackknife of its own: its IoU is taken to vary as that of single images does in the
classes with several (not so for the difference of two runs, whose intervals cover enough without). The bias, that of a
ratio of sums, widens the interval and does not move it, so that an interval always holds its estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.special import stdtr, stdtrit

from ovbench.metrics.confusion import PixelCounts

LEVEL = 0.95
FEWEST_IMAGES = 10  # below, the simulated coverage falls under 90 %
MOST_SEEN_ONCE = 0.5  # share of the classes in the mean; such classes say nothing about their spread
ROUNDING = 1e-12  # an error below is none


class ImageCounts(NamedTuple):
    """Sparse i64[n, c] per image and class: pixels where prediction and label agree, and their union."""

    intersection: csr_array
    union: csr_array


class Interval(NamedTuple):
    """Bounds of a 95 % interval, cut to possible values, and half its width before that."""

    low: float
    high: float
    half: float


class Estimate(NamedTuple):
    """mIoU with its interval, or None and the reason ``why`` there is no interval."""

    miou: float
    interval: Interval | None
    why: str = ""


class Difference(NamedTuple):
    """The change of mIoU from one run to another on the same images with its interval, or None and the reason ``why``;
    and per class the change of IoU with its p-value, corrected for the number of classes (Benjamini-Hochberg); NaN for
    a class without pixels in one of the runs."""

    miou: float
    interval: Interval | None
    why: str
    iou: np.ndarray
    p_value: np.ndarray


class Jackknife(NamedTuple):
    """What leaving out an image changes, see the head of this file.

    ``iou`` f64[c] of all images, NaN without pixels; ``seen`` i64[c] images with pixels of the class; ``change`` sparse
    f64[n, c]: IoU minus IoU without the image, 0 where the class has no other; ``spread`` sparse f64[n, c]: IoU within
    the image minus IoU, as a sample deviation, and ``several`` sparse i64[n, c]: where it is known, which is in classes
    seen in several images.
    """

    iou: np.ndarray
    seen: np.ndarray
    change: csr_array
    spread: csr_array
    several: csr_array

    @property
    def known(self) -> np.ndarray:
        return self.seen > 0

    @property
    def miou(self) -> float:
        return float(self.iou[self.known].mean()) if self.known.any() else float("nan")


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


def jackknife(counts: ImageCounts) -> Jackknife:
    """Leave out every image once. Time and memory grow with the non-zero counts."""
    shape = counts.union.shape
    rows, columns, union, hit = _cells(counts)
    whole_hit, whole_union = (np.bincount(columns, part, shape[1]) for part in (hit, union))
    seen = np.bincount(columns, minlength=shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = whole_hit / whole_union
        rest = whole_union[columns] - union
        change = np.where(rest > 0, (hit - iou[columns] * union) / rest, 0.0)
        spread = (hit / union - iou[columns]) * np.sqrt(seen / (seen - 1))[columns]
    several = seen[columns] > 1

    def table(values: np.ndarray, kept: np.ndarray | slice = slice(None)) -> csr_array:
        return csr_array(coo_array((values[kept], (rows[kept], columns[kept])), shape=shape))

    return Jackknife(iou, seen, table(change), table(spread, several), table(np.ones(len(rows), np.int64), several))


def _cells(counts: ImageCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image, class, union and intersection wherever the union is not empty, class by class within an image."""
    table = counts.union.tocoo()
    kept = table.data > 0
    rows, columns, union = table.row[kept], table.col[kept], table.data[kept].astype(np.float64)
    if not len(rows):
        return rows, columns, union, union
    return rows, columns, union, np.asarray(counts.intersection[rows, columns], dtype=np.float64).ravel()


def miou_interval(counts: ImageCounts) -> Estimate:
    """mIoU of all images and its 95 % interval over images.

    No interval, but a reason, for fewer than 10 images; where more than half of the classes in the mean have pixels in
    one image only; and where no image differs from the others (mIoU of 0 or 1).
    """
    one = jackknife(counts)
    images = one.change.shape[0]
    why = _why_none(images, one.seen == 1, one.known)
    if why:
        return Estimate(one.miou, None, why)
    shares = one.known.sum()
    changes = np.asarray(one.change.sum(1)).ravel() / shares
    alone = (one.seen == 1).sum() * _mean_square(one.spread, one.several) / shares**2
    error = _error(changes.sum(), (changes**2).sum(), images, alone)
    if error < ROUNDING:
        return Estimate(one.miou, None, "no image differs from the others")
    return Estimate(one.miou, _interval(one.miou, error, images, 0.0))


def paired_difference(before: ImageCounts, after: ImageCounts) -> Difference:
    """``after`` minus ``before`` on the same images: both runs leave out the same image, so that what makes an image
    hard cancels. Each run keeps the classes of its own mean. No interval where `miou_interval` gives none, except that
    equal runs have the interval 0 to 0."""
    runs = [jackknife(before), jackknife(after)]
    images = before.union.shape[0]
    alone, known = (np.logical_or(*parts) for parts in ([r.seen == 1 for r in runs], [r.known for r in runs]))
    change = runs[1].iou - runs[0].iou
    p_value = _p_values(change, _of_classes(runs[1].change - runs[0].change), _seen_in_either(before, after), images)
    miou = runs[1].miou - runs[0].miou
    why = _why_none(images, alone, known)
    if why:
        return Difference(miou, None, why, change, p_value)
    first, second = (run.change / run.known.sum() for run in runs)
    changes = np.asarray((second - first).sum(1)).ravel()
    error = _error(changes.sum(), (changes**2).sum(), images)
    return Difference(miou, _interval(miou, error, images, -1.0), "", change, p_value)


def iou_intervals(counts: ImageCounts) -> np.ndarray:
    """The 95 % interval of every class' IoU over images, f64[c, 2], with as many degrees of freedom as the class has
    images, less one; NaN for a class with pixels in fewer than two images, or with the same IoU in all of them."""
    one = jackknife(counts)
    error = _error(*_of_classes(one.change), one.change.shape[0])
    half = stdtrit(np.maximum(one.seen - 1, 1), (1 + LEVEL) / 2) * error
    bounds = np.stack([one.iou - half, one.iou + half], 1).clip(0, 1)
    return np.where(((one.seen > 1) & (error > ROUNDING))[:, None], bounds, np.nan)


def image_iou(counts: ImageCounts) -> np.ndarray:
    """Every image by itself: mean IoU over the classes with pixels in it, f64[n]; 0 for an image without pixels."""
    rows, _, union, hit = _cells(counts)
    images = counts.union.shape[0]
    return np.bincount(rows, hit / union, images) / np.bincount(rows, minlength=images).clip(min=1)


def counts_in_order(entries: Mapping[str, PixelCounts], ids: Sequence[str], classes: int) -> ImageCounts:
    """The counts of the images ``ids``, in that order."""
    return stack_counts([entries[i] for i in ids], classes)


def _why_none(images: int, alone: np.ndarray, known: np.ndarray) -> str:
    """Why an interval would mean nothing; empty where it means something."""
    if images < FEWEST_IMAGES:
        return f"fewer than {FEWEST_IMAGES} images"
    if not known.any():
        return "no pixel was scored"
    if alone.sum() > MOST_SEEN_ONCE * known.sum():
        return f"{alone.sum()} of {known.sum()} classes occur in one image only"
    return ""


def _error(total, squares, images: int, alone: float = 0.0):
    """sqrt(variance + bias^2), from the sum of the jackknife's changes and of their squares."""
    images = max(images, 1)
    share = (images - 1) / images
    variance = share * np.maximum(squares - total**2 / images, 0) + alone
    return np.sqrt(variance + (share * total) ** 2)


def _interval(value: float, error: float, images: int, lowest: float) -> Interval:
    half = float(stdtrit(images - 1, (1 + LEVEL) / 2) * error)
    return Interval(max(value - half, lowest), min(value + half, 1.0), half)


def _of_classes(change: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Sums over images of the changes of every class and of their squares, f64[c]."""
    return np.asarray(change.sum(0)).ravel(), np.asarray(change.power(2).sum(0)).ravel()


def _mean_square(values: csr_array, where: csr_array) -> float:
    """Over the non-zero places of ``where``; a place that ``values`` does not store is 0."""
    return float(values.power(2).sum() / max(where.nnz, 1))


def _seen_in_either(before: ImageCounts, after: ImageCounts) -> np.ndarray:
    """i64[c] images with pixels of a class in one of the runs."""
    shape = before.union.shape
    return np.bincount((before.union + after.union).tocoo().col, minlength=shape[1])


def _p_values(change: np.ndarray, moments: tuple[np.ndarray, np.ndarray], seen: np.ndarray, images: int) -> np.ndarray:
    """Two-sided t-tests of no change. m images never give less than 2^(1 - m), what exchanging the runs image by image
    could show at most, so that few images cannot be sure of anything."""
    from scipy.stats import false_discovery_control  # slow to import

    known = ~np.isnan(change)
    if not known.any():
        return np.full(len(change), np.nan)
    error, freedom = _error(*moments, images)[known], np.maximum(seen[known] - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(change[known] == 0, 0.0, np.abs(change[known]) / error)
    corrected = np.full(len(change), np.nan)
    p = np.maximum(2 * stdtr(freedom, -t), np.exp2(1.0 - seen[known]))
    corrected[known] = false_discovery_control(p.clip(max=1))
    return corrected
