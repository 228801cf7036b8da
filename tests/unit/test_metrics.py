"""Counts and scores against mmseg's IoUMetric, and against numbers recorded from it."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from ovbench.data.labels import IGNORED, NO_CLASS
from ovbench.metrics import confusion as confusion_module
from ovbench.metrics.confusion import Confusion, PixelCounts, count_pixels, sum_by_class
from ovbench.metrics.iou import scores

CASES = json.loads((Path(__file__).parents[1] / "data" / "metric_cases.json").read_text())["cases"]


def confusion(pairs, classes, ignored):
    total = Confusion(classes)
    for predicted, label in pairs:
        total.add(count_pixels(np.asarray(predicted), np.asarray(label), classes, ignored=ignored))
    return total


def _recorded(case, name):
    """Per class: the recorded list, or all classes but the recorded ones not a number; nothing where not recorded."""
    if "per_class" in case:
        return [math.nan if v is None else v for v in case["per_class"][name]]
    valid = case["per_class_valid"].get(name)
    return [valid.get(str(number), math.nan) for number in range(case["num_classes"])] if valid else []


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_cases(case):
    pairs = [(pair["pred"], pair["label"]) for pair in case["pairs"]]
    total = confusion(pairs, case["num_classes"], case["ignore_index"])
    areas = {"intersect": total.intersection, "union": total.union, "pred": total.predicted, "label": total.labelled}
    assert areas.keys() & case.keys() or "per_class" in case or case["per_class_valid"]
    for name in areas.keys() & case.keys():
        assert areas[name].tolist() == case[name], name
    result = scores(total)
    ours = {"IoU": result.iou, "Acc": result.acc, "Dice": result.dice, "Precision": result.precision}
    for name, values in ours.items():
        for number, value in enumerate(_recorded(case, name)):
            assert values[number] == pytest.approx(value, abs=1e-6, nan_ok=True), (name, number)
    for ours, name in ((result.miou, "mIoU"), (result.macc, "mAcc"), (result.aacc, "aAcc")):
        assert round(100 * ours, 2) == pytest.approx(case["summary_percent"][name], abs=0.0051, nan_ok=True), name


def test_equal_to_mmsegs_iou_metric_on_random_maps():
    from ovbench.integrations.mmcv_ops import provide_mmcv_ops

    provide_mmcv_ops()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from mmseg.evaluation import IoUMetric
    rng = np.random.default_rng(3)
    pairs = []
    for h, w in [(37, 53), (64, 48), (20, 91)]:
        label = rng.integers(0, 7, (h, w))
        label[rng.random((h, w)) < 0.1] = 255
        label[label == 6] = 5  # class 6 is predicted only
        predicted = np.where(rng.random((h, w)) < 0.5, np.minimum(label, 6), rng.integers(0, 7, (h, w)))
        pairs.append((predicted, label))
    official = [IoUMetric.intersect_and_union(torch.from_numpy(p), torch.from_numpy(t), 8, 255) for p, t in pairs]
    expected = IoUMetric.total_area_to_metrics(*(sum(part) for part in zip(*official, strict=True)), ["mIoU"], None, 1)
    result = scores(confusion(pairs, 8, 255))
    np.testing.assert_array_equal(result.iou.astype(np.float32), expected["IoU"].astype(np.float32))
    assert np.float32(result.aacc) == np.float32(expected["aAcc"])
    assert result.iou[6] == 0 and np.isnan(result.iou[7])


def test_void_that_is_kept_lowers_the_iou_of_what_is_predicted_there():
    predicted, label = np.array([[0, 0, 1, 1]]), np.array([[0, NO_CLASS, 1, IGNORED]])
    total = confusion([(predicted, label)], 2, IGNORED)
    assert total.union.tolist() == [2, 1]
    assert total.labelled.tolist() == [1, 1]


def test_counts_beyond_float32_stay_exact():
    total = Confusion(2)
    counts = count_pixels(np.zeros((1, 3), int), np.zeros((1, 3), int), 2)
    total.add(counts._replace(pixels=counts.pixels + 2**40))
    total.add(counts)
    assert total.intersection.tolist() == [2**40 + 6, 0]


def test_unlike_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        count_pixels(np.zeros((2, 2), int), np.zeros((2, 3), int), 3)


def test_the_ignored_value_is_the_one_that_label_maps_hold():
    assert confusion_module.IGNORED == IGNORED
    counts = count_pixels(np.array([[0, 1]]), np.array([[0, IGNORED]]), 2)
    assert counts.pixels.tolist() == [1]


@pytest.mark.parametrize("classes", [1, 4, 150])
def test_sums_by_class_are_those_of_the_matrix(classes):
    rng, whole = np.random.default_rng(classes), Confusion(classes)
    images = [count_pixels(*rng.integers(0, classes + 1, (2, 9, 11)), classes) for _ in range(5)]
    for one in images:
        whole.add(one)
    for name, values in sum_by_class(images, classes)._asdict().items():
        np.testing.assert_array_equal(values, getattr(whole, name))
    assert [len(values) for values in sum_by_class([], classes)] == [classes] * 4
    with pytest.raises(IndexError):
        sum_by_class(images, classes - 1)


def test_sums_by_class_need_no_matrix(monkeypatch):
    shapes, zeros = [], np.zeros
    monkeypatch.setattr(np, "zeros", lambda shape, *a, **k: shapes.append(np.prod(shape)) or zeros(shape, *a, **k))
    sum_by_class([PixelCounts(*(np.array([n], np.int64) for n in (7, 8, 2)))], 10_000)
    assert max(shapes) == 10_001


@pytest.mark.parametrize("classes", [1, 847, 65533])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_counts_do_not_depend_on_the_integer_type(classes, dtype):
    rng, most = np.random.default_rng(classes), min(np.iinfo(dtype).max, IGNORED)
    label, predicted = (rng.integers(0, most + 1, (30, 40)).astype(dtype) for _ in range(2))
    label[:9] = most
    found = count_pixels(predicted, label, classes)
    expected = count_pixels(predicted.astype(np.int64), label.astype(np.int64), classes)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
