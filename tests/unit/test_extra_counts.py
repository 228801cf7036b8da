"""Boundary IoU, IoU by segment size and calibration, against forms that look at one mask, segment or pixel."""

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from ovbench.metrics.boundary import boundary_width, count_boundary
from ovbench.metrics.calibration import count_calibration
from ovbench.metrics.confusion import count_pixels, sum_by_class
from ovbench.metrics.count_names import EXTRA
from ovbench.metrics.extra_counts import BINS, WIDTHS, from_lists, sum_extra, table_width
from ovbench.metrics.influence import influence, measure
from ovbench.metrics.named import METRICS, MetricClasses
from ovbench.metrics.segment_size import AREAS, count_by_size
from ovbench.metrics.stacked import CountedImages

C = 4
SIZES = [(60, 90), (131, 40), (7, 9), (240, 200)]


def blobs(shape, seed, values):
    """A label map of smooth areas, as large as 24 pixels."""
    rng = np.random.default_rng(seed)
    small = rng.choice(values, (shape[0] // 24 + 2, shape[1] // 24 + 2))
    map_ = cv2.resize(small.astype(np.float32), shape[::-1], interpolation=cv2.INTER_NEAREST)
    noisy = np.where(rng.random(shape) < 0.002, rng.choice(values, shape), map_)
    return noisy.astype(np.uint16)


def maps(seed=0):
    """Pairs of prediction and label with ignored pixels, pixels of no class, and a class that is not predicted."""
    found = []
    for number, shape in enumerate(SIZES):
        label = blobs(shape, [seed, number, 0], [0, 1, 2, 3, 65535, 65534])
        predicted = np.where(
            blobs(shape, [seed, number, 1], [0, 1]) == 1, label, blobs(shape, [seed, 9, number], [0, 1, 2])
        )
        if number == 3:  # one large segment
            label[60:200, 40:180], predicted[70:190, 60:200] = 2, 2
        found.append((np.where(predicted >= C, 0, predicted).astype(np.uint16), label))
    return found


def mask_boundary(mask, width):
    """A mask minus its erosion, with one pixel of nothing around the image, as the code of the paper has it."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (eroded == 0)


def test_boundary_counts_are_those_of_single_masks():
    for predicted, label in maps():
        predicted = np.where(label == 65535, 65535, predicted)
        width = max(round(0.02 * math.sqrt(label.shape[0] ** 2 + label.shape[1] ** 2)), 1)
        found = sum_extra([count_boundary(predicted, label, C)], C)
        assert width == boundary_width(*label.shape) and found.union.sum() > 0
        for c in range(C):
            near = [mask_boundary(labels == c, width) for labels in (predicted, label)]
            assert found.predicted[c] == near[0].sum() and found.labelled[c] == near[1].sum()
            assert found.intersection[c] == (near[0] & near[1]).sum()
            assert found.union[c] == (near[0] | near[1]).sum()


def test_what_is_predicted_on_ignored_pixels_does_not_matter():
    predicted, label = maps()[0]
    other = np.where(label == 65535, 3, predicted)
    for count in (count_boundary, count_by_size):
        for one, two in zip(count(predicted, label, C), count(other, label, C), strict=True):
            np.testing.assert_array_equal(one, two)


def test_sizes_are_those_of_single_segments():
    seen = np.zeros(3, int)
    for predicted, label in maps():
        predicted = np.where(label == 65535, 65535, predicted)
        expected = np.zeros((3, 3, C), int)  # right, predicted, labelled by size and class
        for c in range(C):
            for labels, columns in ((label, "labelled"), (predicted, "wrong")):
                segments, count = ndimage.label(labels == c, np.ones((3, 3)))
                for number in range(1, count + 1):
                    segment = segments == number
                    size = sum(segment.sum() >= area for area in AREAS)
                    if columns == "labelled":
                        right = (segment & (predicted == c)).sum()
                        expected[:, size, c] += right, right, segment.sum()
                        seen[size] += 1
                    else:
                        expected[1, size, c] += (segment & (label != c)).sum()
        found = sum_extra([count_by_size(predicted, label, C)], 3 * C)
        for name, values in zip(("intersection", "predicted", "labelled"), expected, strict=True):
            np.testing.assert_array_equal(getattr(found, name), values.ravel())
        usual = sum_by_class([count_pixels(predicted, label, C)], C)
        for part, whole in zip(found, usual, strict=True):
            np.testing.assert_array_equal(part.reshape(3, C).sum(0), whole)
    assert (seen > 0).all()


@pytest.mark.slow
def test_calibration_is_that_of_single_pixels():
    rng = np.random.default_rng(0)
    images, pixels = [], []
    for _, label in maps()[:3]:
        best = np.where(rng.random(label.shape) < 0.5, label, 1)
        confidence = rng.random(label.shape).astype(np.float32) ** 2
        confidence.flat[:3] = 0, 1, 1 / BINS
        images.append(count_calibration(best, confidence, label))
        pixels += [
            (float(p), b == t)
            for p, b, t in zip(confidence.ravel(), best.ravel(), label.ravel(), strict=True)
            if t != 65535
        ]
    groups = [[(p, hit) for p, hit in pixels if min(int(p * BINS), BINS - 1) == number] for number in range(BINS)]
    expected = sum(abs(sum(hit for _, hit in group) - sum(p for p, _ in group)) for group in groups) / len(pixels)
    total = sum_extra(images, BINS)
    assert total.labelled.sum() == len(pixels)
    assert METRICS["ECE"].total(total, MetricClasses(C)) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        count_calibration(best, confidence + 1, label)
    sure = count_calibration(np.ones((2, 2), int), np.ones((2, 2)), np.ones((2, 2), int))
    assert METRICS["ECE"].total(sum_extra([sure], BINS), MetricClasses(C)) == 0


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["boundary_mIoU", "mIoU_small", "mIoU_large", "ECE"])
def test_scores_of_other_counts_have_intervals(name):
    metric, rng = METRICS[name], np.random.default_rng(1)
    pairs = [pair for seed in range(4) for pair in maps(seed)]
    count = {"boundary": count_boundary, "size": count_by_size}.get(metric.counts)
    if count:
        extra = [count(predicted, label, C) for predicted, label in pairs]
    else:
        extra = [count_calibration(p, rng.random(p.shape), label) for p, label in pairs]
    images = CountedImages([], C, {metric.counts: extra})
    one = influence(metric, images, MetricClasses(C))
    for left in (0, 7):
        rest = CountedImages([], C, {metric.counts: extra[:left] + extra[left + 1 :]})
        assert one.change[left] == pytest.approx(one.value - influence(metric, rest, MetricClasses(C)).value, abs=1e-12)
    total = sum_extra(extra, table_width(metric.counts, C))
    found = measure(metric, images, MetricClasses(C))
    assert found.value == pytest.approx(metric.total(total, MetricClasses(C)))
    assert found.interval.low < found.value < found.interval.high


def test_counts_of_a_damaged_line_are_refused():
    with pytest.raises(ValueError, match="different lengths"):
        from_lists([[1], [1, 2], [1], [1]])


def test_every_name_has_a_table():
    assert tuple(WIDTHS) == EXTRA == tuple(dict.fromkeys(m.counts for m in METRICS.values() if m.counts != "pixels"))
