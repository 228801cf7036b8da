"""A plot of classes has a bounded number of bars, the best and the worst classes, and a small one has every class."""

from pathlib import Path

import numpy as np
import pytest

from ovbench.results.plots import MOST_CLASSES, _classes
from ovbench.results.record_files import RecordFile

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure


def record_of(scores):
    rows = [{"class": f"class {n}", "iou": score, "acc": score} for n, score in enumerate(scores)]
    cell = {"method": "clip", "dataset": "mini"}
    data = {"images": 3, "split_images": 3, "label_rule": "correct"}
    return RecordFile(Path("a.json"), {"cell": cell, "dataset": data, "per_class": rows, "status": "complete"})


def drawn(records, monkeypatch):
    monkeypatch.setattr("ovbench.results.plots.deviations_of", lambda record: "")
    axes = Figure().add_subplot()
    _classes(axes, records)
    return [label.get_text() for label in axes.get_yticklabels()], [bar.get_width() for bar in axes.patches], axes


@pytest.mark.parametrize("count", [MOST_CLASSES + 1, 847, 10_000])
def test_many_classes_are_the_best_and_the_worst(count, monkeypatch):
    scores = np.random.default_rng(count).permutation(count) / count
    others = record_of([1 - score for score in scores])
    names, widths, axes = drawn([record_of([float(score) for score in scores]), others], monkeypatch)
    ranked = sorted(range(count), key=lambda n: -scores[n])
    half = MOST_CLASSES // 2
    assert names == [f"class {n}" for n in (*ranked[:half], *ranked[-half:])]
    assert len(widths) == 2 * MOST_CLASSES
    assert np.allclose(np.add(widths[:MOST_CLASSES], widths[MOST_CLASSES:]), 100)  # both records, the same classes
    assert f"{half} best and {half} worst of {count} classes" in axes.get_title()


def test_every_class_of_a_usual_benchmark_is_drawn_in_label_order(monkeypatch):
    names, widths, axes = drawn([record_of([0.5, None, 0.25])], monkeypatch)
    assert names == ["class 0", "class 1", "class 2"] and widths == [50, 0, 25] and axes.get_title() == "mini"


def test_classes_without_a_score_make_room_for_others(monkeypatch):
    names, _, axes = drawn([record_of([None] * 500 + [0.25, 0.75])], monkeypatch)
    assert names == ["class 501", "class 500"] and "the 2 of 502 classes with a score" in axes.get_title()
