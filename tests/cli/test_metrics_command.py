"""`--metrics` stores other counts, and `--metric` shows any metric: in tables, comparisons and the gate."""

import json
from pathlib import Path

import numpy as np
import pytest

from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.evaluation.ledger import read_header, read_ledger
from ovbench.metrics.calibration import count_calibration
from ovbench.metrics.count_names import EXTRA

SMALL = ("--set", "short_side=112", "--set", "crop=112", "--set", "stride=56")
ALL = ("--metrics", "calibration,boundary,size")
OTHERS = ("boundary_mIoU", "mIoU_small", "mIoU_medium", "mIoU_large", "ECE")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


made = {}  # records and their paths by folder and words


def run(ovbench, out, *more, limit=2):
    if (out, more) not in made:
        made[out, more] = evaluate(ovbench, out, *more, limit=limit)
    return made[out, more]


def evaluate(ovbench, out, *more, limit=2):
    done = ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", limit, "--out", out, "--json", *SMALL, *more)
    assert done.code == 0, done.err
    (path,) = [line.split(": ", 1)[1] for line in done.err.splitlines() if line.startswith("record: ")]
    return done.json(), Path(path)


@pytest.mark.slow
def test_other_counts_are_stored_only_if_asked_for(ovbench, out):
    plain, path = run(ovbench, out)
    assert not set(OTHERS) & plain["metrics"].keys() and "boundary" not in plain["counts"]
    record, other = run(ovbench, out, *ALL)
    assert path != other and path.is_file()  # the ledger without these counts is not continued
    assert plain["ledger"] != record["ledger"] and record["time"]["images_counted_now"] == 2
    assert record["arguments"]["metrics"] == list(EXTRA) and "metrics" not in read_header(out / plain["ledger"])
    assert plain["metrics"]["mIoU"] == record["metrics"]["mIoU"]
    for name in OTHERS:
        assert 0 <= record["metrics"][name] <= 1 and record["metrics"]["intervals"][name] is None, name
    sizes = np.array(record["counts"]["size"]["labelled"]).reshape(3, -1).sum(0)
    assert sizes.tolist() == record["counts"]["labelled"]
    assert sum(record["counts"]["calibration"]["labelled"]) == sum(record["counts"]["labelled"])
    again, _ = run(ovbench, out, "--metrics", "size,calibration,boundary")
    assert again == record  # resumed: the order of the names does not matter


@pytest.mark.slow
def test_calibration_is_that_of_the_softmax(ovbench, out):
    """The confidence of the ledger against a softmax over the scores at full size, as listeners get them."""
    from ovbench.config.load import resolve
    from ovbench.inference.pipeline import Pipeline

    record, _ = run(ovbench, out, *ALL)
    header = read_header(out / record["ledger"])
    settings = {"short_side": 112, "crop": 112, "stride": 56}
    pipeline = Pipeline(resolve("maskclip", "mini", settings)).to("cpu")
    sample, scores = open_dataset(load_card("mini")).read(0), []

    def note(name, value):
        if name == "full_scores":
            scores.append(value)

    predictor = pipeline.predictor
    (decision,), (queries,) = predictor.decisions, predictor.vocabularies
    list(predictor.batcher().add(0, sample.image, note=note))
    whole = np.zeros(scores[0].size)
    for part in scores:
        whole[part.index] = part.values.numpy()
    raised = np.exp(decision.logit_scale * (whole - whole.max(0)))
    best, confidence = queries.class_index.numpy()[whole.argmax(0)], (raised / raised.sum(0)).max(0)
    expected = count_calibration(best, confidence, sample.label)
    found = read_ledger(out / record["ledger"], header)["mini_0000"].extra["calibration"]
    np.testing.assert_allclose(np.bincount(found.column, found.labelled, 15), np.bincount(*expected[::3], 15), atol=9)
    assert found.predicted.sum() == pytest.approx(expected.predicted.sum(), rel=1e-5)
    assert found.intersection.sum() == expected.intersection.sum()


@pytest.mark.slow
def test_shards_are_merged_to_the_same_counts(ovbench, out, tmp_path):
    record, _ = run(ovbench, out, *ALL)
    folders = []
    for number in (1, 2):
        _, path = run(ovbench, tmp_path / str(number), *ALL, "--shard", f"{number}/2")
        folders.append(path.parent / json.loads(path.read_text())["ledger"])
    merged = ovbench("merge", *folders, "--out", tmp_path / "merged", "--json").json()
    assert merged["counts"] == record["counts"] and merged["metrics"] == record["metrics"]
    other = run(ovbench, tmp_path / "3", "--metrics", "size", "--shard", "2/2")
    folder = other[1].parent / other[0]["ledger"]
    refused = ovbench("merge", folders[0], folder, "--out", tmp_path / "none")
    assert refused.code == 3 and 'different runs: "metrics' in refused.err


def test_names_that_do_not_exist_are_refused(ovbench, out):
    done = ovbench("eval", "-m", "clip", "-d", "mini", "--metrics", "boundry")
    assert done.code == 2 and 'unknown kind of counts "boundry"' in done.err and "boundary" in done.err
    done = ovbench("table", "--runs", out, "--metric", "fwiou")
    assert done.code == 2 and 'unknown metric "fwiou"' in done.err and "fwIoU" in done.err


@pytest.mark.slow
def test_tables_show_any_metric(ovbench, out, caplog):
    run(ovbench, out), run(ovbench, out, *ALL)

    def value(name, *more):
        done = ovbench("table", "--runs", out, "--metric", name, "--format", "json", *more)
        assert done.code == 0, done.err
        said = caplog.text
        caplog.clear()
        return done.json(), said

    record, _path = run(ovbench, out, *ALL)
    for name in ("fwIoU", "mIoU_present", "boundary_mIoU", "ECE"):
        table, error = value(name)
        (row,) = table["rows"]
        assert row["cells"]["mini"]["measured"] == pytest.approx(100 * record["metrics"][name])
        assert table["metric"] == name and any(note.startswith(f"{name}: ") for note in table["notes"])
        missing = "it was run without --metrics" in error
        assert missing == (name in OTHERS)
    iou = [one["iou"] for one in record["per_class"] if one["iou"] is not None]
    table, _ = value("mIoU@50")
    assert table["rows"][0]["cells"]["mini"]["measured"] == pytest.approx(100 * sum(iou) / 50)
    done = ovbench("table", "--runs", out, "--metric", "SG_IoU")
    assert done.code == 2 and "SG_IoU needs the similarity of classes" in done.err
    assert ovbench("table", "--runs", out, "--metric", "sensitivity").code == 3
    file = out / "similar.toml"
    first, second = record["dataset"]["classes"][:2]
    file.write_text(f'title = "t"\nsource = "s"\n[accepts]\n"{first}" = ["{second}"]\n')
    table, _ = value("SG_IoU", "--similarity", file)
    assert table["rows"][0]["cells"]["mini"]["measured"] > 0


def test_a_comparison_of_any_metric(ovbench, out):
    record, path = run(ovbench, out, *ALL)
    _plain, before = run(ovbench, out)
    found = ovbench("compare", path, path, "--metric", "boundary-mIoU", "--json").json()["metric"]
    assert found["first"] == found["second"] == pytest.approx(record["metrics"]["boundary_mIoU"])
    assert found["change"] == 0 and found["no_interval"] == "fewer than 10 images"
    assert "boundary_mIoU: mIoU of the pixels" in ovbench("compare", path, path, "--metric", "boundary_mIoU").out
    refused = ovbench("compare", before, path, "--metric", "ECE")
    assert refused.code == 3 and "--metrics calibration" in refused.err
    assert ovbench("compare", before, path, "--metric", "sensitivity").code == 3
    assert "metric" not in ovbench("compare", before, path, "--json").json()


@pytest.mark.slow
def test_a_ledger_with_other_extra_counts_is_refused(ovbench, out, tmp_path):
    _record, path = run(ovbench, tmp_path, *ALL)
    copy = json.loads(path.read_text())
    copy["counts"]["boundary"]["intersection"][0] += 1
    path.write_text(json.dumps(copy))
    refused = ovbench("compare", path, path)
    assert refused.code == 3 and "metrics.boundary_mIoU" in refused.err
    del copy["metrics"]["boundary_mIoU"]
    path.write_text(json.dumps(copy))
    refused = ovbench("compare", path, path)
    assert refused.code == 3 and "boundary counts of the ledger" in refused.err


@pytest.mark.slow
def test_the_gate_judges_by_any_metric(ovbench, tmp_path):
    file = tmp_path / "baseline.json"
    assert (
        ovbench("gate", "--baseline", file, "--update", "-m", "maskclip", "-d", "mini", "--limit", 2, *SMALL).code == 0
    )
    done = ovbench("gate", "--baseline", file, "--metric", "fwIoU", "--json", *SMALL)
    (verdict,) = done.json()
    assert done.code == 0 and verdict["metric"] == "fwIoU" and verdict["change"] == 0 and verdict["before"] > 0
    refused = ovbench("gate", "--baseline", file, "--metric", "ECE", *SMALL)
    assert refused.code == 2 and "no calibration counts" in refused.err


def test_an_update_of_the_baseline_refuses_options_of_a_check(ovbench, tmp_path):
    file = tmp_path / "baseline.json"
    line = ("gate", "--baseline", file, "--update", "-m", "maskclip", "-d", "mini", "--limit", 2, *SMALL)
    for option in (("--metric", "fwIoU"), ("--tolerance", 1), ("--fixed",), ("--json",), ("--junit", file)):
        refused = ovbench(*line, *option)
        assert refused.code == 2 and f"{option[0]} is for a check of the baseline" in refused.err
        assert not file.exists()


@pytest.mark.slow
def test_the_similarity_may_be_that_of_the_texts(ovbench, out):
    from ovbench.results.text_similarity import text_similarity

    record, path = run(ovbench, out)
    classes = tuple(record["dataset"]["classes"])
    stated = text_similarity("text:mini", classes)
    matrix = stated.matrix
    assert (matrix == matrix.T).all() and (matrix.diagonal() == 1).all() and matrix.min() >= 0
    assert not set(np.unique(matrix)) <= {0, 1}
    least = text_similarity("text:mini?least=0.9", classes).matrix
    np.testing.assert_array_equal(least, matrix >= 0.9)
    done = ovbench("table", "--runs", out, "--metric", "Open_mIoU", "--similarity", "text:mini", "--format", "json")
    (row,) = done.json()["rows"]
    assert row["cells"]["mini"]["measured"] > 100 * record["metrics"]["mIoU"]
    assert f"mini: similarity text:mini (weights {record['weights']['clip']['sha256'][:12]})" in done.out
    assert stated.sha256[:12] in done.out
    found = ovbench("compare", path, path, "--metric", "SG_IoU", "--similarity", "text:mini?least=0.9", "--json")
    assert found.json()["metric"]["similarity"].startswith("text:mini?least=0.9 (weights ")
    refused = ovbench("compare", path, path, "--metric", "SG_IoU", "--similarity", "text:mini")
    assert refused.code == 3 and "SG_IoU needs a similarity of 0 and 1" in refused.err
    for name in ("text:", "text:mini?most=1", "text:mini?least=2", "text:mini?least=x"):
        refused = ovbench("compare", path, path, "--metric", "Open_mIoU", "--similarity", name)
        assert refused.code == 2 and "is no similarity of texts" in refused.err, name
    refused = ovbench("table", "--runs", out, "--similarity", "text:mini")
    assert refused.code == 2 and "mIoU uses no similarity of classes" in refused.err
