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


def torchrun(processes):
    return ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))


def start(out, *more, launcher=()):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    head = [sys.executable, *launcher] if launcher else [sys.executable]
    command = [*head, "-m", "ovbench", *COMMAND, str(out), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # jobs in the background ignore it
    )  # fmt: skip


def comparable(text):
    return {key: value for key, value in json.loads(text).items() if key not in ("time", "git")}


def record_of(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return comparable(out)


@pytest.fixture
def run(ovbench):
    """``run(out, ...)``: the record of the command in this process, on one thread like the others."""

    def evaluate(out, *more):
        done = ovbench(*COMMAND, out, *more)
        assert done.code == 0, done.err
        return comparable(done.out)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield evaluate
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.fixture
def uninterrupted(run, made, tmp_path_factory):
    """``uninterrupted(...)``: the record of a run that nothing disturbed."""

    def record(*more):
        if more not in made:
            made[more] = run(tmp_path_factory.mktemp("whole"), *more)
        return made[more]

    return record


def wait_for_images(out: Path, process, count):
    """Until the ledger holds so many images."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if images_in(out) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("the run never got that far")


def images_in(out: Path):
    return sum(path.read_bytes().count(b' {"image":') for path in out.glob("*/part-*.jsonl"))


def stop(process, out: Path):
    """Kill the process when some of its images are in the ledger."""
    wait_for_images(out, process, 1)
    process.kill()
    process.communicate()
    assert images_in(out) < IMAGES and not list(out.glob("*.json"))


@pytest.mark.slow
def test_killed_and_repeated(run, uninterrupted, tmp_path):
    stop(start(tmp_path), tmp_path)
    assert run(tmp_path) == uninterrupted()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop(run, uninterrupted, tmp_path, number, code):
    process = start(tmp_path)
    wait_for_images(tmp_path, process, 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in err, err
    (path,) = tmp_path.glob("*.json")
    partial = json.loads(path.read_text())
    assert partial["status"] == "partial" and 1 <= partial["dataset"]["images"] < IMAGES
    assert run(tmp_path) == uninterrupted()


@pytest.mark.slow
def test_several_processes_count_every_image_once(run, uninterrupted, tmp_path):
    """Three, which have unlike numbers of images; two are below."""
    assert record_of(start(tmp_path, launcher=torchrun(3))) == uninterrupted()
    assert len(list(tmp_path.glob("*/part-*.jsonl"))) == 3 and images_in(tmp_path) == IMAGES
    assert run(tmp_path) == uninterrupted() and images_in(tmp_path) == IMAGES  # all parts are read again


@pytest.mark.slow
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
def test_shared_batches_give_one_record_stopped_and_split(run, uninterrupted, ovbench, tmp_path):
    whole = uninterrupted("--batch", "8")
    assert whole["device"]["batch"] == 8
    stop(start(tmp_path, "--batch", "8"), tmp_path)
    assert record_of(start(tmp_path, "--batch", "8", launcher=torchrun(2))) == whole
    other = ovbench(*COMMAND, tmp_path)
    assert other.code == 0 and "differs in execution.batch" in other.err
    assert len(list(tmp_path.glob("*.json"))) == 2
