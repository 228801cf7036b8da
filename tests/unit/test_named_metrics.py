"""Named metrics against naive implementations, and their intervals against leaving images out one by one."""

import math

import numpy as np
import pytest

from ovbench.metrics import influence as influence_module
from ovbench.metrics import stacked
from ovbench.metrics.confusion import count_pixels, sum_by_class
from ovbench.metrics.influence import influence, measure, measure_change
from ovbench.metrics.interval import miou_interval, paired_difference
from ovbench.metrics.named import METRICS, RECORDED, MetricClasses, parse_metric
from ovbench.metrics.similarity import Similarity, read_similarity, similarity_names
from ovbench.metrics.stacked import CountedImages, stack_counts
from ovbench.utils.errors import InputError, UsageError

C = 6
SIMILAR = Similarity("drawn", "0", np.where(np.eye(C), 1.0, np.random.default_rng(9).random((C, C)).round(2)))
ACCEPTS = Similarity("drawn", "0", np.eye(C) + np.eye(C, k=1) + np.eye(C, k=-3))
CLASSES = MetricClasses(C, 0, None, SIMILAR)


def maps(count, seed=0, classes=C, accuracy=0.6):
    """Label maps with void pixels and pixels of no class; class 4 is never labelled, class 5 never predicted either."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        label = rng.integers(0, min(classes, 4), (9, 11))
        predicted = np.where(rng.random(label.shape) < accuracy, label, rng.integers(0, min(classes, 5), label.shape))
        label[rng.random(label.shape) < 0.1] = 65535
        label[rng.random(label.shape) < 0.05] = 65534
        found.append((predicted, label))
    return found


def counted(pairs, classes=C):
    return CountedImages([count_pixels(p, t, classes) for p, t in pairs], classes)


def matrix(pairs, classes=C):
    """n[label][prediction] of counted pixels, pixel by pixel; the last row has labels of no class."""
    n = np.zeros((classes + 1, classes))
    for predicted, label in pairs:
        for p, t in zip(predicted.ravel().tolist(), label.ravel().tolist(), strict=True):
            if t != 65535:
                n[min(t, classes)][p] += 1
    return n


def naive(name, n, members=None):
    """The score of a confusion matrix, class by class."""
    classes = n.shape[1]
    rows = range(classes)
    labelled, predicted = [sum(n[c]) for c in rows], [sum(n[:, c]) for c in rows]
    union = [labelled[c] + predicted[c] - n[c][c] for c in rows]
    iou = {c: n[c][c] / union[c] for c in rows if union[c]}
    acc = {c: n[c][c] / labelled[c] for c in rows if labelled[c]}
    if name == "fwIoU":
        return sum(labelled[c] * iou[c] for c in rows if labelled[c]) / sum(labelled)
    if name == "aAcc":
        return sum(n[c][c] for c in rows) / sum(labelled)
    if name == "mIoU_all":
        return sum(iou.values()) / classes
    if name == "mIoU@5":
        return sum(iou.values()) / 5
    values = {
        "mIoU": iou, "mIoU_present": {c: iou[c] for c in acc}, "CoI_mIoU": {c: iou[c] for c in iou if c != 0},
        "mAcc": acc, "sensitivity": {1: acc.get(1)}, "specificity": {0: acc.get(0)},
    }[name]  # fmt: skip
    return sum(values.values()) / len(values)


def open_miou(n, s):
    scores = []
    for i in range(C):
        right = sum(s[i][j] * n[i][j] for j in range(C))
        missed = sum((1 - s[i][j]) * n[i][j] for j in range(C))
        false = sum((1 - (s[j][i] if j < C else 0)) * n[j][i] for j in range(C + 1))
        if right + missed + false:
            scores.append(right / (right + missed + false))
    return sum(scores) / len(scores)


def guided(n, s):
    """SG-IoU with the loops of its paper's evaluator."""
    n, right = n[:C], np.diag(n[:C]).copy()
    labelled, predicted = n.sum(1), n.sum(0)
    for child in range(C):
        for parent in range(C):
            if child != parent and s[child][parent] and predicted[parent]:
                beta = (n[child][parent] + n[parent][parent]) / predicted[parent]
                right[child] += n[child][parent] * beta
    union = labelled + predicted - np.diag(n)
    return sum(right[c] / union[c] for c in range(C) if labelled[c]) / sum(u > 0 for u in union)


@pytest.mark.parametrize("name", ["mIoU", "mAcc", "aAcc", "mIoU_present", "mIoU_all", "mIoU@5", "fwIoU", "CoI_mIoU"])
def test_scores_are_those_of_a_naive_count(name):
    pairs, metric = maps(5), parse_metric(name)
    images = counted(pairs)
    expected = naive(name, matrix(pairs))
    assert metric.total(sum_by_class(images.pixels, C), CLASSES) == pytest.approx(expected, abs=1e-12)
    assert influence(metric, images, CLASSES).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["sensitivity", "specificity"])
def test_sensitivity_and_specificity_are_of_two_classes(name):
    pairs = maps(4, classes=2)
    images = counted(pairs, 2)
    expected = naive(name, matrix(pairs, 2))
    assert influence(METRICS[name], images, MetricClasses(2, 0)).value == pytest.approx(expected)
    other = {"sensitivity": "specificity", "specificity": "sensitivity"}[name]
    assert influence(METRICS[other], images, MetricClasses(2, 1)).value == pytest.approx(expected)
    assert "two classes" in METRICS[name].why_not(CLASSES) and not METRICS[name].why_not(MetricClasses(2, 0))


def test_the_rules_differ_where_they_should():
    images = counted(maps(5))
    found = {name: influence(METRICS[name], images, CLASSES).value for name in ("mIoU", "mIoU_present", "mIoU_all")}
    # five classes are labelled or predicted, four are labelled, there are six
    assert found["mIoU_present"] * 4 == pytest.approx(found["mIoU"] * 5) == pytest.approx(found["mIoU_all"] * 6)
    of_two = influence(METRICS["CoI_mIoU"], images, MetricClasses(C, 0, (1, 3))).value
    n = matrix(maps(5))
    assert of_two == pytest.approx(
        np.mean([n[c][c] / (n[c].sum() + n[:, c].sum() - n[c][c]) for c in (1, 3)]), abs=1e-12
    )


def test_open_miou_and_sg_iou_are_those_of_a_naive_count():
    pairs = maps(5)
    images, n = counted(pairs), matrix(pairs)
    found = influence(METRICS["Open_mIoU"], images, CLASSES).value
    assert found == pytest.approx(open_miou(n, SIMILAR.matrix), abs=1e-12)
    same = CLASSES._replace(similarity=Similarity("", "", np.eye(C)))
    assert influence(METRICS["Open_mIoU"], images, same).value == pytest.approx(naive("mIoU", n), abs=1e-12)
    found = influence(METRICS["SG_IoU"], images, CLASSES._replace(similarity=ACCEPTS)).value
    assert found == pytest.approx(guided(n, ACCEPTS.matrix), abs=1e-12)
    assert found > influence(METRICS["SG_IoU"], images, same).value == pytest.approx(guided(n, np.eye(C)), abs=1e-12)
    with pytest.raises(InputError, match="0 and 1"):
        influence(METRICS["SG_IoU"], images, CLASSES)


PIXEL_METRICS = [m for m in METRICS.values() if m.counts == "pixels"]


@pytest.mark.quick(3)
@pytest.mark.parametrize("metric", PIXEL_METRICS, ids=lambda m: m.name)
def test_the_influence_is_that_of_leaving_out_images(metric):
    classes = 2 if metric.two_classes else C
    pairs, similar = maps(7, 1, classes), ACCEPTS if metric.name == "SG_IoU" else SIMILAR
    about = MetricClasses(classes, 0, None, similar if classes == C else None)
    one = influence(metric, counted(pairs, classes), about)
    for number in range(7):
        rest = influence(metric, counted(pairs[:number] + pairs[number + 1 :], classes), about).value
        assert one.change[number] == pytest.approx(one.value - rest, abs=1e-12)


def test_chunks_do_not_change_the_influence(monkeypatch):
    images = counted(maps(12))
    whole = influence(METRICS["fwIoU"], images, CLASSES)
    monkeypatch.setattr(influence_module, "CHUNK", 20)
    assert (influence(METRICS["fwIoU"], images, CLASSES).change == whole.change).all()


@pytest.mark.parametrize("block", [4, 100])
def test_many_images_are_measured_in_blocks(monkeypatch, block):
    monkeypatch.setattr(stacked, "PACKED", 2)
    names = ("mIoU", "aAcc", "fwIoU", "Open_mIoU", "SG_IoU")
    classes = CLASSES._replace(similarity=ACCEPTS)
    images = counted(maps(11))
    whole = [influence(METRICS[name], images, classes) for name in names]
    monkeypatch.setattr(stacked, "BLOCK", block)
    columns = stacked.CountColumns(images.pixels)
    for one, same in zip(images.pixels, columns, strict=True):
        assert all((a == b).all() for a, b in zip(one, same, strict=True))
    for name, expected in zip(names, whole, strict=True):
        found = influence(METRICS[name], CountedImages(columns, C), classes)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


def test_miou_has_the_interval_of_the_jackknife():
    first, second = maps(14, 2), maps(14, 2, accuracy=0.8)
    for images in (first, second):
        found = measure(METRICS["mIoU"], counted(images), CLASSES)
        assert found == miou_interval(stack_counts(counted(images).pixels, C))
    paired = paired_difference(*(stack_counts(counted(pairs).pixels, C) for pairs in (first, second)))
    assert measure_change(METRICS["mIoU"], counted(first), counted(second), CLASSES)[:2] == paired[:2]
    for name in RECORDED:
        if METRICS[name].counts == "pixels" and not METRICS[name].two_classes:
            found = measure(METRICS[name], counted(first), CLASSES)
            assert found.interval.low < found.value < found.interval.high, name


def test_runs_that_predict_other_classes_are_compared():
    pairs = maps(14, 3)
    fewer = [(np.where(predicted == 4, 0, predicted), label) for predicted, label in pairs]
    for name in ("mIoU", "mIoU_present", "mIoU_all", "aAcc", "mAcc", "fwIoU", "Open_mIoU"):
        found = measure_change(METRICS[name], counted(pairs), counted(fewer), CLASSES)
        one, other = (influence(METRICS[name], counted(each), CLASSES).value for each in (pairs, fewer))
        assert found.value == pytest.approx(other - one) and found.interval.low < found.value < found.interval.high


def test_nothing_to_score_is_not_a_number():
    empty = CountedImages([count_pixels(np.zeros((2, 2), int), np.full((2, 2), 65535), C)] * 12, C)
    for metric in PIXEL_METRICS:
        if not metric.two_classes:
            about = CLASSES._replace(similarity=ACCEPTS)
            found = measure(metric, empty, about)
            assert math.isnan(found.value) and found.interval is None and found.why == "no pixel was scored"


def test_a_divisor_below_the_number_of_labelled_classes_is_refused():
    with pytest.raises(InputError, match="divides by 3, but 4 classes"):
        influence(parse_metric("mIoU@3"), counted(maps(3)), CLASSES)


@pytest.mark.parametrize("text", ["miou", "mIoU@0", "mIoU@", "fwiou", ""])
def test_unknown_names_are_refused(text):
    with pytest.raises(UsageError, match="unknown metric"):
        parse_metric(text)


def test_similarities_are_read_by_class_name(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text(",dog,cat\ndog,1,0.5\ncat,0.25,1\n")
    found = read_similarity(str(file), ("cat", "dog"))
    assert found.matrix.tolist() == [[1, 0.25], [0.5, 1]] and len(found.sha256) == 64
    toml = tmp_path / "s.toml"
    toml.write_text('title = "t"\nsource = "s"\n[accepts]\ndog = ["cat"]\n')
    assert read_similarity(str(toml), ("cat", "dog")).matrix.tolist() == [[1, 0], [1, 1]]
    for text, what in {
        ",dog,cat\ndog,1,0.5\n": "not the 2 classes", ",dog,cat\ndog,1,2\ncat,0,1\n": "between 0 and 1",
        ",dog,cat\ndog,1,x\ncat,0,1\n": "not a table of numbers", "": "not the 2 classes",
        ",dog,cat\ndog,0.5,1\ncat,0,1\n": "between 0 and 1", ",dog,cat\ndog,nan,1\ncat,0,1\n": "between 0 and 1",
        ",dog,cat\ndog,1\ncat,0,1\n": "not a table of numbers",
        ",dog,cat\ndog,1\ncat,1\n": "not a table of 2 numbers in each row",
        ",dog,cat\ndog,1,0,1\ncat,0,1,1\n": "not a table of 2 numbers in each row",
    }.items():  # fmt: skip
        file.write_text(text)
        with pytest.raises(InputError, match=what):
            read_similarity(str(file), ("cat", "dog"))
    with pytest.raises(UsageError, match="unknown class"):
        read_similarity(str(toml), ("cat", "bird"))
    with pytest.raises(UsageError, match="unknown similarity"):
        read_similarity("scan-ade", ("cat",))


def test_shipped_similarities_are_of_their_benchmarks():
    from ovbench.data.card import load_card

    assert similarity_names()
    for name in similarity_names():
        classes = load_card(name.split("-")[-1]).classes
        assert read_similarity(name, classes).matrix.sum() > len(classes)
