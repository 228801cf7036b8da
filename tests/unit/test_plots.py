"""Plots: which classes are drawn, shortened names that stay different, names that cover neither names nor points."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from report_runs import random_counts, write_run

from ovbench.config.load import resolve
from ovbench.metrics.interval import iou_intervals
from ovbench.metrics.stacked import stack_counts
from ovbench.results.plot_labels import place_names, shortened, wrapped
from ovbench.results.plots import KINDS, draw, gather, shown_classes
from ovbench.results.record_files import RecordFile

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.mark.parametrize("count", [41, 150, 847])
def test_many_classes_are_the_best_and_the_worst(count):
    scores = (np.random.default_rng(count).permutation(count) / count).tolist()
    best, worst = shown_classes(scores, 20)
    ranked = sorted(range(count), key=lambda n: -scores[n])
    assert best.numbers == ranked[:20] and worst.numbers == ranked[-20:]
    assert best.title == f"best 20 of {count} classes" and worst.title == f"worst 20 of {count} classes"


def test_few_classes_are_one_list_and_classes_without_a_score_are_left_out():
    (only,) = shown_classes([0.5, None, 0.25, 0.75], 2)
    assert only.numbers == [3, 0, 2] and only.title == "3 classes with a score, of 4"
    assert [len(one.numbers) for one in shown_classes([None] * 500 + [0.1, 0.2, 0.3], 1)] == [1, 1]


@pytest.mark.slow
def test_bars_have_their_scores_and_the_intervals_of_the_ledger(tmp_path):
    names = [f"class {n}" for n in range(150)]
    counts = [random_counts(np.random.default_rng(seed), 40, 150) for seed in range(2)]
    for number, one in enumerate(counts):
        write_run(tmp_path, one, names, name=f"run{number}")
    records = gather([tmp_path])
    figure = Figure()
    KINDS["classes"](figure, records, 20)
    best, worst = figure.axes
    shown = [label.get_text() for axes in (best, worst) for label in axes.get_yticklabels()]
    bars = [bar.get_width() for axes in (best, worst) for bar in axes.containers[0]]
    scores = {row["class"]: row["iou"] for row in records[0].record["per_class"]}
    assert len(shown) == 40 and bars == pytest.approx([100 * scores[name] for name in shown])
    assert bars == sorted(bars, reverse=True)
    bounds = iou_intervals(stack_counts(counts[0], 150))[[names.index(name) for name in shown[:20]]]
    known = 100 * bounds[~np.isnan(bounds[:, 0])]
    ends = [whisker.get_segments()[0][:, 0] for whisker in best.collections[: len(known)]]
    assert len(known) > 3 and np.allclose(ends, known) and "95 % interval" in best.get_xlabel()
    assert figure.get_size_inches()[1] < 10
    alone = RecordFile(tmp_path / "elsewhere" / "a.json", records[0].record)
    figure = Figure()
    KINDS["classes"](figure, [alone], 20)
    assert "no ledger" in figure.axes[0].get_xlabel()


@pytest.mark.slow
def test_a_class_without_a_score_in_one_run_is_no_bar_of_zero():
    rows = [{"class": name, "iou": iou, "acc": iou} for name, iou in (("a", 0.5), ("b", 0.25))]
    record = {
        "cell": {"method": "clip", "dataset": "mini"}, "status": "complete", "per_class": rows, "device": {},
        "dataset": {"images": 3, "split_images": 3, "label_rule": "correct"}, "weights": {}, "ledger": "none",
    }  # fmt: skip
    other = {**record, "per_class": [rows[0], {**rows[1], "iou": None}]}
    figure = Figure()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovbench.results.plots.run_details", lambda records: ["" for _ in records])
        KINDS["classes"](figure, [RecordFile(Path("a.json"), one) for one in (record, other)], 20)
    (axes,) = figure.axes
    assert [len(bars) for bars in axes.containers] == [2, 1]
    assert "no score" in [text.get_text() for text in axes.texts]


@pytest.mark.slow
def test_long_names_of_runs_stay_inside_the_picture(tmp_path):
    names = [f"class {n}" for n in range(50)]
    for number in range(2):
        cell = resolve("clip", "mini", {"crop": "64", "stride": str(32 + number), "short_side": "96"}).as_dict()
        counts = random_counts(np.random.default_rng(number), 12, 50)
        write_run(tmp_path, counts, names, name=f"r{number}", cell={**cell, "dataset": "a dataset " * 4})
    figure = Figure(layout="constrained")
    KINDS["classes"](figure, gather([tmp_path]), 20)
    figure.draw_without_rendering()
    texts = [figure._suptitle, *figure.legends, *(axes.title for axes in figure.axes)]
    for box in (text.get_window_extent() for text in texts):
        assert min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_covers_a_warning(tmp_path, monkeypatch, count):
    for number in range(count):
        cell = resolve("clip", "mini", {"stride": str(32 + number)}).as_dict()
        counts = random_counts(np.random.default_rng(number), 12, 3)
        write_run(tmp_path, counts, ["sky", "dog", "cat"], name=f"r{number}", cell=cell)
    kept, records = [], gather([tmp_path])
    records[0].record["notes"] = ["clip is a toy"]
    monkeypatch.setattr(Figure, "savefig", lambda figure, *more, **options: kept.append(figure))
    draw("classes", records, tmp_path / "a.png")
    (figure,) = kept
    figure.draw_without_rendering()
    (warning,) = [text for text in figure.findobj(Text) if text.get_text() == "clip is a toy" and text.get_visible()]
    entries = [text.get_window_extent() for legend in figure.legends for text in legend.get_texts()]
    others = [axis.get_tightbbox() for axis in figure.axes] + entries
    assert len(entries) == count * (count > 1) and not warning.get_window_extent().count_overlaps(others)


@pytest.mark.slow
def test_letters_that_no_font_has_are_said_in_one_sentence(tmp_path, caplog):
    write_run(tmp_path, random_counts(np.random.default_rng(0), 12, 2), ["\ue123 road", "sky"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw("classes", gather([tmp_path]), tmp_path / "a.png")
    told = caplog.text.replace("\ue123", r"\ue123")  # the command line prints it so
    assert r"no installed font has \ue123, so these are boxes" in told


def test_shortened_names_stay_different():
    names = [f"a very long name of a class, number {n}" for n in range(3)] + ["sky", "x" * 26]
    made = shortened(names, 26)
    assert len(set(made)) == 5 and max(map(len, made)) <= 26 and made[3:] == names[3:]
    runs = ["method (" + "setting=1, " * 20 + f"tau={n})" for n in range(2)] + ["clip"]
    assert len(set(wrapped(runs, 30))) == 3 and wrapped(runs[:1], 30)[0].count("\n") == 2


@pytest.mark.slow
def test_names_of_crowded_points_do_not_cover_each_other():
    generator = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in generator.uniform(0.4, 0.6, (20, 2)) * (2, 100)]
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(*zip(*points, strict=True))
    axes.margins(0.6)
    place_names(axes, points, [f"method {n}" for n in range(20)], 8)
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 20
    assert not [(a, b) for n, a in enumerate(boxes) for b in boxes[:n] if a.overlaps(b)]
    places = axes.transData.transform(points)
    assert not [box for box in boxes for place in places if box.contains(*place)]
