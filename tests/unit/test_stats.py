"""The bootstrap: the same as drawing images one by one, fair, and sure where it should be."""

import numpy as np
import pytest

from ovbench.metrics.counts import Confusion, count_pixels
from ovbench.metrics.iou import scores
from ovbench.metrics.stats import (
    draw_weights,
    image_iou,
    iou_of_draws,
    miou_interval,
    miou_of_draws,
    paired_difference,
    stack_counts,
)  # fmt: skip


def images(count, classes, accuracy, seed):
    """Random label maps and predictions that are right with a probability."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        label = rng.integers(0, classes, (12, 15))
        label[rng.random(label.shape) < 0.05] = 65535
        right = rng.random(label.shape) < accuracy
        predicted = np.where(right & (label < classes), label, rng.integers(0, classes, label.shape))
        found.append(count_pixels(predicted, label, classes))
    return found


def test_every_draw_is_the_score_of_the_images_it_drew():
    found = images(9, 5, 0.6, 1)
    weights = draw_weights(9, np.random.default_rng(0), 20)
    assert (weights.sum(1) == 9).all()
    ours = miou_of_draws(iou_of_draws(stack_counts(found, 5), weights))
    for row, value in zip(weights, ours, strict=True):
        total = Confusion(5)
        for times, counts in zip(row, found, strict=True):
            for _ in range(times):
                total.add(counts)
        assert value == pytest.approx(scores(total).miou, abs=1e-12)


def test_interval_holds_the_score_and_narrows_with_images():
    few, many = (stack_counts(images(n, 4, 0.7, 2), 4) for n in (10, 160))
    wide, narrow = (miou_interval(c, np.random.default_rng(0)) for c in (few, many))
    whole = miou_of_draws(iou_of_draws(many, np.ones((1, 160), int)))[0]
    assert narrow.low < whole < narrow.high
    assert 2 < (wide.high - wide.low) / (narrow.high - narrow.low) < 8  # about the square root of 16


def test_equal_runs_do_not_differ_and_a_worse_one_does():
    base = stack_counts(images(30, 6, 0.7, 3), 6)
    same = paired_difference(base, base, np.random.default_rng(0))
    assert same.miou == 0 and same.interval.low == same.interval.high == 0 and (same.p_value == 1).all()
    worse = paired_difference(base, stack_counts(images(30, 6, 0.6, 4), 6), np.random.default_rng(0))
    assert worse.miou < 0 and worse.interval.high < 0 and (worse.p_value < 0.05).all()


def test_multiplicity_is_controlled():
    """Two runs that differ by chance alone: among many classes hardly any is called changed."""
    one, other = (stack_counts(images(40, 60, 0.5, seed), 60) for seed in (5, 6))
    assert (paired_difference(one, other, np.random.default_rng(0)).p_value < 0.05).sum() <= 3


def test_absent_class_is_left_out():
    found = stack_counts(images(5, 3, 0.8, 7), 4)
    result = paired_difference(found, found, np.random.default_rng(0))
    assert np.isnan(result.iou[3]) and np.isnan(result.p_value[3])
    assert image_iou(found).shape == (5,)


def test_scale_of_the_largest_benchmark():
    """5,000 images with some 25 cells each of 847 classes: seconds and little memory, not a dense cube."""
    rng = np.random.default_rng(0)
    from ovbench.metrics.counts import PixelCounts

    found = [PixelCounts(*rng.integers(0, 847, (2, 25)), rng.integers(1, 9999, 25)) for _ in range(5000)]
    counts = stack_counts(found, 847)
    assert counts.union.nnz <= 5000 * 50
    result = miou_interval(counts, np.random.default_rng(0), resamples=200)
    assert 0 <= result.low <= result.high <= 1
