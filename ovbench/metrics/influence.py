"""Compute named scores with their intervals: how each score changes if an image is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import singledispatch

import numpy as np
from scipy.sparse import csr_array

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
from ovbench.metrics.similarity import open_tables, sg_columns, sg_iou, sg_pairs
from ovbench.metrics.stacked import CountedImages, ImageCounts, in_blocks

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
    sums = metric.group_of(images.total(metric.counts), classes)
    chosen = metric.members(sums, classes)

    def blocks() -> Iterator[ImageCounts]:
        for block in images.blocks(metric.counts):
            mine = metric.group_of(block, classes)
            tables = [csr_array(getattr(mine, name).multiply(chosen[None, :])) for name in (metric.part, metric.whole)]
            if metric.pooled:
                tables = [csr_array(np.asarray(table.sum(1)).reshape(-1, 1)) for table in tables]
            yield ImageCounts(*tables)

    return mean_influence(blocks, metric.divide_by(sums.labelled, classes))


@influence.register
def _(metric: FrequencyWeighted, images: CountedImages, classes: MetricClasses) -> Influence:
    return leave_one_out(
        frequency_weighted,
        lambda: ((one.intersection, one.union, one.labelled) for one in images.blocks(metric.counts)),
    )


@influence.register
def _(metric: CalibrationError, images: CountedImages, classes: MetricClasses) -> Influence:
    return leave_one_out(
        calibration_error,
        lambda: ((one.intersection, one.predicted, one.labelled) for one in images.blocks(metric.counts)),
    )


@influence.register
def _(metric: OpenMean, images: CountedImages, classes: MetricClasses) -> Influence:
    assert classes.similarity is not None
    matrix = classes.similarity.matrix
    return mean_influence(lambda: (open_tables(some, matrix) for some in in_blocks(images.pixels)))


@influence.register
def _(metric: SemanticGuided, images: CountedImages, classes: MetricClasses) -> Influence:
    assert classes.similarity is not None
    similarity = classes.similarity
    pairs = sg_pairs(similarity)

    def columns() -> Iterator[tuple[csr_array, ...]]:
        return (sg_columns(some, similarity, pairs) for some in in_blocks(images.pixels))

    whole, _ = _sums(columns)
    return leave_one_out(lambda *sums: sg_iou(sums, whole, pairs), columns)


Columns = Callable[[], Iterable[tuple[csr_array, ...]]]


def leave_one_out(score: Callable[..., np.ndarray], blocks: Columns) -> Influence:
    """Return the influence of every image on a score of sums.

    Args:
        score: Returns (...,) for sums of each column, (..., K).
        blocks: Returns the columns of some images after the other, each sparse (N, K) with one row per image.
    """
    whole, images = _sums(blocks)
    value = float(score(*whole))
    if np.isnan(value):
        return Influence(value, np.zeros(images), np.zeros(1, bool), np.zeros(1, bool), 0.0)
    step = max(CHUNK // max(sum(len(sums) for sums in whole), 1), 1)
    changes = []
    for columns in blocks():
        for start in range(0, columns[0].shape[0], step):
            rows = slice(start, start + step)
            rest = score(*(sums - column[rows].toarray() for sums, column in zip(whole, columns, strict=True)))
            changes.append(value - np.where(np.isnan(rest), value, rest))
    return Influence(value, np.concatenate(changes), np.ones(1, bool), np.zeros(1, bool), 0.0)


def _sums(blocks: Columns) -> tuple[list[np.ndarray], int]:
    """Return the sums of columns over all images, each (K,), and the number of images."""
    found, images = [], 0
    for columns in blocks():
        found.append([np.asarray(column.sum(0)).ravel() for column in columns])
        images += columns[0].shape[0]
    return [np.sum(parts, axis=0) for parts in zip(*found, strict=True)], images
