"""Runs that are killed, stopped, split over processes or fed a broken method: the same counts, or a clear word."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

IMAGES = 5
COMMAND = ("eval", "-m", "maskclip", "-d", "mini", "--limit", str(IMAGES), "--json", "--out")


def start(out, *more, launcher=()):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    head = [sys.executable, *launcher] if launcher else [sys.executable]
    command = [*head, "-m", "ovbench", *COMMAND, str(out), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # jobs in the background ignore it
    )  # fmt: skip


def record_of(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return {key: value for key, value in json.loads(out).items() if key not in ("time", "git")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, request):
    """The record of a run that nothing disturbed."""
    cache = os.environ.get("OVBENCH_CACHE") or str(tmp_path_factory.getbasetemp() / "cache")
    os.environ["OVBENCH_CACHE"] = cache
    return record_of(start(tmp_path_factory.mktemp("whole")))


def wait_for_images(out: Path, process, count):
    """Until the ledger holds so many images."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if sum(path.read_bytes().count(b' {"image":') for path in out.glob("*/part-*.jsonl")) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("the run never got that far")


@pytest.mark.slow
def test_killed_and_repeated(uninterrupted, tmp_path):
    process = start(tmp_path)
    wait_for_images(tmp_path, process, 2)
    process.kill()
    process.communicate()
    assert not list(tmp_path.glob("*.json"))
    again = start(tmp_path)
    record = record_of(again)
    assert record == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop(uninterrupted, tmp_path, number, code):
    process = start(tmp_path)
    wait_for_images(tmp_path, process, 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in err, err
    (path,) = tmp_path.glob("*.json")
    partial = json.loads(path.read_text())
    assert partial["status"] == "partial" and 1 <= partial["dataset"]["images"] < IMAGES
    assert record_of(start(tmp_path)) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_count_every_image_once(uninterrupted, tmp_path, processes):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    assert record_of(start(tmp_path, launcher=launcher)) == uninterrupted
    parts = sorted(tmp_path.glob("*/part-*.jsonl"))
    assert len(parts) == processes
    assert sum(path.read_bytes().count(b' {"image":') for path in parts) == IMAGES


def test_a_method_that_gives_no_numbers(tmp_path, monkeypatch):
    from ovbench.config.load import resolve
    from ovbench.inference.pipeline import build_pipeline
    from ovbench.inference.predictor import Predictor
    from ovbench.inference.steps import Limits
    from ovbench.utils.errors import ScoreError

    pipeline = build_pipeline(resolve("maskclip", "mini"), (("a",), ("b",)))
    assert isinstance(pipeline.predictor, Predictor)
    monkeypatch.setattr(pipeline.method, "score", lambda features, queries: torch.full((1, 2, 3, 3), torch.nan))
    pipeline.predictor.limits = Limits(1)
    with pytest.raises(ScoreError, match="MaskCLIP returned scores that are NaN or infinite"):
        pipeline.label(torch.zeros(60, 60, 3, dtype=torch.uint8).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")])
def test_shared_batches_give_one_record_stopped_or_split(tmp_path, launcher):
    whole = record_of(start(tmp_path / "whole", "--batch", "8"))
    assert whole["device"]["batch"] == 8
    process = start(tmp_path / "again", "--batch", "8", launcher=launcher)
    wait_for_images(tmp_path / "again", process, 1)
    process.kill()
    process.communicate()
    assert record_of(start(tmp_path / "again", "--batch", "8", launcher=launcher)) == whole
    other = start(tmp_path / "again")
    _, err = other.communicate(timeout=120)
    assert other.returncode == 0 and "differs in execution.batch" in err
    assert len(list((tmp_path / "again").glob("*.json"))) == 2
