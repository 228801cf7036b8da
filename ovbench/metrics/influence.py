"""Compute named scores with their intervals: how each score changes if an image is left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import numpy as np
from scipy.sparse import csr_array

from ovbench.metrics.confusion import ClassPixels
from ovbench.metrics.interval import Estimate, Influence, difference, estimate, mean_influence
from ovbench.metrics.named import (
    CalibrationError,
    ClassMean,
    FrequencyWeighted,
    Metric,
    MetricClasses,
    OpenMean,
    SemanticGuided,
    calibration_error,
    frequency_weighted,
)
from ovbench.metrics.similarity import open_tables, sg_columns, sg_iou
from ovbench.metrics.stacked import CountedImages, ImageCounts

CHUNK = 1 << 21  # elements of the tables of some images that are left out at once


def measure(metric: Metric, images: CountedImages, classes: MetricClasses) -> Estimate:
    """Return a score over images with its 95 % interval."""
    return estimate(influence(metric, images, classes))


def measure_change(metric: Metric, before: CountedImages, after: CountedImages, classes: MetricClasses) -> Estimate:
    """Return the change of a score between two runs on the same images, with its paired 95 % interval."""
    return difference(influence(metric, before, classes), influence(metric, after, classes))


@singledispatch
def influence(metric: Metric, images: CountedImages, classes: MetricClasses) -> Influence:
    """Return a score and how it changes without each image.

    Raises:
        InputError: If the metric does not fit the classes.
        KeyError: If the images lack the counts of the metric.
    """
    raise NotImplementedError(metric.name)


@influence.register
def _(metric: ClassMean, images: CountedImages, classes: MetricClasses) -> Influence:
    mine = metric.group_of(images.by_class(metric.counts), classes)
    sums = ClassPixels(*(np.asarray(table.sum(0)).ravel() for table in mine))
    chosen = metric.members(sums, classes)
    tables = [csr_array(getattr(mine, name).multiply(chosen[None, :])) for name in (metric.part, metric.whole)]
    if metric.pooled:
        tables = [csr_array(np.asarray(table.sum(1)).reshape(-1, 1)) for table in tables]
    return mean_influence(ImageCounts(*tables), metric.divide_by(sums.labelled, classes))


@influence.register
def _(metric: FrequencyWeighted, images: CountedImages, classes: MetricClasses) -> Influence:
    found = images.by_class(metric.counts)
    return leave_one_out(frequency_weighted, found.intersection, found.union, found.labelled)


@influence.register
def _(metric: CalibrationError, images: CountedImages, classes: MetricClasses) -> Influence:
    found = images.by_class(metric.counts)
    return leave_one_out(calibration_error, found.intersection, found.predicted, found.labelled)


@influence.register
def _(metric: OpenMean, images: CountedImages, classes: MetricClasses) -> Influence:
    assert classes.similarity is not None
    return mean_influence(open_tables(images.pixels, classes.similarity.matrix))


@influence.register
def _(metric: SemanticGuided, images: CountedImages, classes: MetricClasses) -> Influence:
    assert classes.similarity is not None
    columns, pairs = sg_columns(images.pixels, classes.similarity)
    whole = [np.asarray(column.sum(0)).ravel() for column in columns]
    return leave_one_out(lambda *sums: sg_iou(sums, whole, pairs), *columns)


def leave_one_out(score: Callable[..., np.ndarray], *columns: csr_array) -> Influence:
    """Return the influence of every image on a score of sums.

    Args:
        score: Returns (...,) for sums of each column, (..., K).
        columns: Sparse (N, K), one row per image.
    """
    whole = [np.asarray(column.sum(0)).ravel() for column in columns]
    images, value = columns[0].shape[0], float(score(*whole))
    if np.isnan(value):
        return Influence(value, np.zeros(images), np.zeros(1, bool), np.zeros(1, bool), 0.0)
    step = max(CHUNK // max(sum(len(sums) for sums in whole), 1), 1)
    change = np.zeros(images)
    for start in range(0, images, step):
        rows = slice(start, start + step)
        rest = score(*(sums - column[rows].toarray() for sums, column in zip(whole, columns, strict=True)))
        change[rows] = value - np.where(np.isnan(rest), value, rest)
    return Influence(value, change, np.ones(1, bool), np.zeros(1, bool), 0.0)
