"""Records in trackers, in their offline and file modes; a library that is missing is named before anything runs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from report_runs import random_counts, write_run

from ovbench.cli.eval import TRACKER_NAMES
from ovbench.results import trackers
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json

NAMES = ["sky", "a:b/c<d>", "road"]


@pytest.fixture
def run(tmp_path):
    path = write_run(tmp_path, random_counts(np.random.default_rng(0), 12, 3, outside=False), NAMES)
    return read_json(path), path


def test_settings_and_scores_of_a_record(run):
    found = trackers.tracked_run(*run)
    assert found.name == "run" and found.settings["method"] == "clip" and found.settings["protocol.crop"] == 128
    assert found.scores["mIoU"] == run[0]["metrics"]["mIoU"]
    assert found.scores["IoU/sky"] == run[0]["per_class"][0]["iou"]
    assert found.scores["mIoU_low"] < found.scores["mIoU"] < found.scores["mIoU_high"]
    assert found.scores["seconds_per_image"] == pytest.approx(0.5)
    assert tuple(trackers.TRACKERS) == TRACKER_NAMES


def test_a_missing_library_is_named_before_anything_runs(ovbench, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    for name in TRACKER_NAMES:
        done = ovbench("eval", "-m", "clip", "-d", "mini", "--log", name, "--out", tmp_path / "runs")
        assert done.code == 3 and f"--log {name} needs the package {name}; pip install" in done.err
    assert not (tmp_path / "runs").exists()
    assert ovbench("eval", "-m", "clip", "-d", "mini", "--log", "comet").code == 2


def test_an_error_of_a_tracker_is_one_sentence(run, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no\nway")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", refuse)
    with pytest.raises(InputError, match=r"wandb did not log run\.json: RuntimeError: no; the record is saved"):
        trackers.log_record("wandb", *run)


@pytest.mark.slow
def test_tensorboard(run):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record, path = run
    trackers.log_record("tensorboard", record, path)
    events = EventAccumulator(str(path.parent / "tensorboard" / "run")).Reload()
    assert events.Scalars("mIoU")[0].value == pytest.approx(record["metrics"]["mIoU"])
    assert {"IoU/sky", "IoU/road", "seconds_per_image"} <= set(events.Tags()["scalars"])
    assert "settings/text_summary" in events.Tags()["tensors"]


@pytest.mark.slow
def test_mlflow(run, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record, path = run
    trackers.log_record("mlflow", record, path)
    client = mlflow.MlflowClient((path.parent / "mlruns").absolute().as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("ovbench").experiment_id])
    assert found.data.metrics["mIoU"] == record["metrics"]["mIoU"] and "IoU/a_b/c_d_" in found.data.metrics
    assert found.data.params["method"] == "clip" and found.info.run_name == "run"
    assert [one.path for one in client.list_artifacts(found.info.run_id)] == ["run.json"]


@pytest.mark.slow
def test_wandb(run, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb")
    record, path = run
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(path.parent / name.lower()))
    trackers.log_record("wandb", record, path)
    (folder,) = (path.parent / "wandb").glob("offline-run-*")
    deadline = time.monotonic() + 10  # its service writes the file after the run has ended
    while (written := next(folder.glob("*.wandb")).read_bytes()).count(b"mIoU") < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"mIoU_low" in written and b"IoU/sky" in written
    assert (folder / "files" / "run.json").exists()
