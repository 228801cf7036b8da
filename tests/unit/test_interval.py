"""Jackknife intervals: equal to leaving images out one by one, around the estimate, and sure where they should be."""

import time

import numpy as np
import pytest

from ovbench.metrics.confusion import Confusion, PixelCounts, count_pixels
from ovbench.metrics.interval import (
    _benjamini_hochberg,
    image_iou,
    iou_intervals,
    jackknife,
    miou_interval,
    paired_difference,
)
from ovbench.metrics.iou import scores
from ovbench.metrics.stacked import stack_counts


def images(count, classes, accuracy, seed, noise=0):
    """Random label maps and predictions that are right with a probability; another ``noise`` errs elsewhere."""
    rng, errors = np.random.default_rng(seed), np.random.default_rng([seed, noise])
    found = []
    for _ in range(count):
        label = rng.integers(0, classes, (12, 15))
        label[rng.random(label.shape) < 0.05] = 65535
        right = errors.random(label.shape) < accuracy
        predicted = np.where(right & (label < classes), label, errors.integers(0, classes, label.shape))
        found.append(count_pixels(predicted, label, classes))
    return found


def many(count, classes, seed):
    """Counts of long-tailed benchmarks: nine classes an image, most of them rare, each partly missed."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, classes + 1)
    found = []
    for _ in range(count):
        label = rng.choice(classes, 9, replace=False, p=frequency / frequency.sum())
        other = rng.choice(classes, 9, p=frequency / frequency.sum())
        pixels = rng.integers(100, 20000, 9)
        missed = (pixels * rng.beta(2, 2, 9)).astype(int)
        found.append(PixelCounts(np.r_[label, label], np.r_[label, other], np.r_[pixels - missed, missed]))
    return found


def whole(found, classes):
    total = Confusion(classes)
    for counts in found:
        total.add(counts)
    return scores(total)


def test_the_jackknife_leaves_out_images_one_by_one():
    found = images(9, 5, 0.6, 1)
    one, iou = jackknife(stack_counts(found, 5)), whole(found, 5).iou
    assert one.iou == pytest.approx(iou) and one.miou == pytest.approx(iou.mean())
    change = one.change.toarray()
    for number in range(9):
        assert change[number] == pytest.approx(iou - whole(found[:number] + found[number + 1 :], 5).iou, abs=1e-12)


def test_the_error_of_a_plain_mean_is_the_usual_one():
    """One class with equal unions: mIoU is a mean over images, and the jackknife gives its standard error."""
    hits = np.random.default_rng(0).integers(10, 90, 25)
    found = [PixelCounts(np.array([0, 0]), np.array([0, 1]), np.array([hit, 100 - hit])) for hit in hits]
    estimate = miou_interval(stack_counts(found, 1))
    error = (hits / 100).std(ddof=1) / 5
    assert estimate.value == pytest.approx(hits.mean() / 100)
    assert estimate.interval.half == pytest.approx(2.0639 * error, rel=1e-4)  # t with 24 degrees of freedom


def test_interval_narrows_with_images():
    wide, narrow = (miou_interval(stack_counts(images(n, 4, 0.7, 2), 4)).interval for n in (10, 160))
    assert 2 < wide.half / narrow.half < 8  # about the square root of 16


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "count"), [(20, 50), (150, 300), (847, 3000)])
def test_an_interval_holds_its_estimate_however_many_classes_are_rare(classes, count):
    for seed in range(2):
        estimate = miou_interval(stack_counts(many(count, classes, seed), classes))
        low, high, half = estimate.interval
        assert low == pytest.approx(estimate.value - half) and high == pytest.approx(estimate.value + half)
        assert 0.001 < half < 0.15


@pytest.mark.slow
def test_most_intervals_hold_the_truth():
    """60 draws of 60 images out of 2,000: at 95 %, more than eight misses are bad luck of 1 in 200."""
    population = stack_counts(many(2000, 30, 0), 30)
    truth = jackknife(population).iou
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(60):
        drawn = rng.integers(0, 2000, 60)
        counts = type(population)(*(part[drawn] for part in population))
        low, high, _ = miou_interval(counts).interval
        missed += not low <= truth[jackknife(counts).known].mean() <= high
    assert missed <= 8


@pytest.mark.parametrize(
    ("found", "classes", "why"),
    [
        (images(9, 4, 0.7, 1), 4, "fewer than 10 images"),
        ([], 4, "fewer than 10 images"),
        ([PixelCounts(*np.array([[4], [4], [7]]))] * 12, 4, "no pixel was scored"),
        ([PixelCounts(*np.array([[n], [n], [7]])) for n in range(12)], 12, "12 of 12 classes occur in one image only"),
        ([PixelCounts(*np.array([[1], [1], [7 + n]])) for n in range(12)], 4, "no image differs from the others"),
    ],
)
def test_no_interval_where_it_would_mean_nothing(found, classes, why):
    estimate = miou_interval(stack_counts(found, classes))
    assert estimate.interval is None and estimate.why == why


def test_a_class_of_one_image_keeps_its_place_and_widens():
    base = images(20, 4, 0.7, 2)
    rare = [*base[:-1], PixelCounts(*(np.r_[a, b] for a, b in zip(base[-1], ([4, 4], [4, 5], [60, 40]), strict=True)))]
    without, with_rare = miou_interval(stack_counts(base, 5)), miou_interval(stack_counts(rare, 5))
    assert with_rare.value == pytest.approx((4 * without.value + 0.6) / 5)
    assert with_rare.interval.half > 4 / 5 * without.interval.half


def test_equal_runs_do_not_differ_and_a_worse_one_does():
    base = stack_counts(images(30, 6, 0.7, 3), 6)
    same = paired_difference(base, base)
    assert same.miou == 0 and same.interval == (0, 0, 0) and (same.p_value == 1).all()
    worse = paired_difference(base, stack_counts(images(30, 6, 0.6, 3, noise=1), 6))
    assert worse.miou < 0 and worse.interval.high < 0 and (worse.p_value < 0.05).all()


def test_pairing_narrows():
    """Two runs that err on the same images: their difference is surer than either."""
    rng = np.random.default_rng(0)
    hard = rng.integers(100, 900, 40)
    cells = np.array([0, 0]), np.array([0, 1])
    runs = [[PixelCounts(*cells, np.array([hit, 1000 - hit])) for hit in hard + more] for more in (0, 2)]
    one, other = (stack_counts(run, 1) for run in runs)
    found = paired_difference(one, other)
    assert found.miou == pytest.approx(0.002) and found.interval.half < miou_interval(one).interval.half / 10


def test_few_images_are_never_sure():
    """A class that two images have, perfect before and lost after, may be chance: at most 1 in 2."""
    good = [PixelCounts(*np.array([[0], [0], [10]]))] * 10
    with_rare = [PixelCounts(*np.array([[0, 1], [0, 1], [10, 9]]))] * 2 + good
    without = [PixelCounts(*np.array([[0, 1], [0, 2], [10, 9]]))] * 2 + good
    found = paired_difference(stack_counts(with_rare, 2), stack_counts(without, 2))
    assert found.iou[1] == -1 and found.p_value[1] == 1  # 0.5, twice for two classes
    assert found.miou == pytest.approx(-0.5)


def test_multiplicity_is_controlled():
    """Two runs that differ by chance alone: among many classes hardly any is called changed."""
    one, other = (stack_counts(images(40, 60, 0.5, 5, noise), 60) for noise in (1, 2))
    assert (paired_difference(one, other).p_value < 0.05).sum() <= 3


def test_absent_class_is_left_out():
    found = stack_counts(images(12, 3, 0.8, 7), 4)
    result = paired_difference(found, found)
    assert np.isnan(result.iou[3]) and np.isnan(result.p_value[3])
    assert image_iou(found).shape == (12,) and np.isnan(iou_intervals(found)[3]).all()


def test_image_iou_is_the_mean_over_the_classes_of_the_image():
    found = [PixelCounts(*np.array([[0, 0, 2], [0, 1, 2], [6, 2, 9]])), PixelCounts(*np.array([[4], [4], [3]]))]
    assert image_iou(stack_counts(found, 4)) == pytest.approx([(6 / 8 + 0 + 1) / 3, 0])


@pytest.mark.slow
def test_scale_of_the_largest_benchmark():
    """5,000 images with some 18 cells each of 847 classes: a fraction of a second, twice the same."""
    counts = stack_counts(many(5000, 847, 0), 847)
    assert counts.union.nnz <= 5000 * 18
    start = time.process_time()
    first, again = miou_interval(counts), miou_interval(counts)
    assert time.process_time() - start < 4 and first == again and first.interval is not None


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 150, 847])
def test_the_correction_for_many_classes_is_that_of_scipy(count):
    from scipy.stats import false_discovery_control

    rng = np.random.default_rng(count)
    p = rng.random(count) ** 3
    p[:: max(2, count // 5)] = p[0]  # ties
    np.testing.assert_array_equal(_benjamini_hochberg(p), false_discovery_control(p))
