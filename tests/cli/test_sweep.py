"""`ovbench sweep`: workers that come, die and come again give the record of one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from ovbench.cluster.sweep import read_sweep
from ovbench.evaluation.ledger import read_header, read_ledger

IMAGES = 3
SMALL = ("--set", "short_side=112", "--set", "crop=112", "--set", "stride=56")
CELL = ("-m", "maskclip", "-d", "mini", "--limit", IMAGES, "--device", "cpu", *SMALL)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def plain(ovbench, whole, one_thread):
    """The text of the record of a plain run, without its times."""
    if not list(whole.glob("*.json")):
        assert ovbench("eval", *CELL, "--out", whole).code == 0
    return text_of(whole)


def text_of(folder):
    (path,) = folder.glob("*.json")
    record = json.loads(path.read_text())
    del record["time"]
    return json.dumps(record, indent=1)


def plan(ovbench, out, *more):
    done = ovbench("sweep", "plan", *CELL, "--minutes", "0.0001", "--out", out, *more)
    assert done.code == 0, done.err
    return read_sweep(out)


@pytest.mark.slow
def test_a_worker_writes_the_record_of_a_plain_run(ovbench, plain, tmp_path):
    made = plan(ovbench, tmp_path)
    assert [task.kind for task in made.tasks] == ["prepare", *["count"] * IMAGES, "record"]
    before = ovbench("sweep", "watch", tmp_path, "--once", "--json")
    assert before.code == 0 and before.json()["tasks"] == {"free": 1, "waiting": IMAGES + 1}
    done = ovbench("sweep", "work", tmp_path)
    assert done.code == 0 and done.err.count("done: ") == IMAGES + 2, done.err
    assert text_of(tmp_path) == plain
    seen = ovbench("sweep", "watch", tmp_path, "--json")
    record = json.loads(plain)
    (cell,) = seen.json()["cells"]
    assert seen.code == 0 and seen.json()["finished"] and cell["done"] == IMAGES
    assert cell["miou"] == pytest.approx(record["metrics"]["mIoU"], abs=1e-12)
    assert ovbench("sweep", "watch", tmp_path).code == 0
    counted_again = ovbench("sweep", "work", tmp_path)  # nothing is left
    assert counted_again.code == 0 and "done" not in counted_again.err
    plan(ovbench, tmp_path)  # another plan uses the counts
    assert ovbench("sweep", "work", tmp_path).code == 0
    assert text_of(tmp_path) == plain and len(lines(tmp_path)) == IMAGES


def lines(out):
    return [line for part in out.glob("*/part-*.jsonl") for line in part.read_bytes().splitlines()[1:]]


def worker(out):
    command = [sys.executable, "-m", "ovbench", "sweep", "work", str(out), "--stale", "2"]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(ovbench, plain, tmp_path):
    plan(ovbench, tmp_path, "--minutes", "9")  # one task of all images
    first = worker(tmp_path)
    deadline = time.monotonic() + 240
    while not lines(tmp_path):
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(lines(tmp_path))
    done = ovbench("sweep", "work", tmp_path)
    assert done.code == 0, done.err
    assert text_of(tmp_path) == plain
    assert kept >= 1 and len(lines(tmp_path)) == IMAGES  # kept lines are not written again
    names = {path.name.split(".", 1)[1] for path in (tmp_path / "sweep").glob("*/tasks/000001*")}
    assert names == {"1", "1.lost", "2", "2.done"} or names == {"1", "1.done"}  # it may have been faster


@pytest.mark.slow
def test_a_task_fails_after_three_tries_and_the_others_go_on(ovbench, one_thread, tmp_path, monkeypatch):
    from ovbench.cluster.loaded_group import LoadedGroup

    made, count = plan(ovbench, tmp_path), LoadedGroup.count

    def broken(self, task, *more):
        if task.start == 1:
            raise RuntimeError("CUDA error: an illegal memory access")
        return count(self, task, *more)

    monkeypatch.setattr(LoadedGroup, "count", broken)
    done = ovbench("sweep", "work", tmp_path)
    assert done.code == 4 and done.err.count("CUDA error") == 3
    seen = ovbench("sweep", "watch", tmp_path, "--json")
    assert seen.code == 4 and seen.json()["tasks"] == {"done": len(made.tasks) - 1, "failed": 1}
    (number,) = (number for number, task in enumerate(made.tasks) if task.start == 1)
    assert "illegal memory access" in seen.json()["errors"][str(number)]
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["status"] == "partial" and record["dataset"]["images"] == IMAGES - 1


@pytest.mark.slow
def test_a_task_whose_third_worker_is_gone_has_failed_in_words(ovbench, one_thread, tmp_path):
    plan(ovbench, tmp_path, "--minutes", "9")
    (board,) = (tmp_path / "sweep").glob("*/tasks")
    for name in ("1", "1.lost", "2", "2.lost", "3"):
        (board / f"000001.{name}").write_text("gone" if len(name) == 1 else "{}")
    (board.parent / "workers" / "gone").write_text('{"ended": true}')
    done = ovbench("sweep", "work", tmp_path)
    assert done.code == 4 and "failed: task 1, try 3: its worker has ended" in done.err, done.err
    assert ovbench("sweep", "watch", tmp_path, "--once").code == 4


@pytest.mark.slow
def test_a_worker_that_is_asked_to_stop_gives_its_task_back(ovbench, plain, tmp_path, monkeypatch):
    from ovbench.cluster.worker import Heartbeat

    plan(ovbench, tmp_path, "--minutes", "9")
    image = Heartbeat.image

    def stopped(self):
        image(self)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Heartbeat, "image", stopped)
    handler = signal.getsignal(signal.SIGTERM)
    assert ovbench("sweep", "work", tmp_path).code == 143
    signal.signal(signal.SIGTERM, handler)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "sweep").glob("*/tasks/*.released")] == ["000001.1.released"]
    assert len(lines(tmp_path)) == 1
    assert ovbench("sweep", "work", tmp_path).code == 0
    assert text_of(tmp_path) == plain and len(lines(tmp_path)) == IMAGES


@pytest.mark.slow
def test_an_unlike_worker_is_refused(ovbench, one_thread, tmp_path):
    plan(ovbench, tmp_path)
    assert ovbench("sweep", "work", tmp_path).code == 0
    plan(ovbench, tmp_path)
    (path,) = tmp_path.glob("*/part-*000001-1.jsonl")
    header = read_header(path.parent)
    assert len(read_ledger(path.parent, {k: v for k, v in header.items() if k != "format"})) == IMAGES
    made = read_sweep(tmp_path)
    facts = {"cells": {"0": {k: v for k, v in header.items() if k != "format"}}, "device": {}, "method": {}}
    facts["cells"]["0"]["code"]["packages"]["torch"] = "0.1"
    (tmp_path / "sweep" / made.name / "group-0").write_text(json.dumps(facts))
    done = ovbench("sweep", "work", tmp_path)
    assert done.code == 3 and '"cells.0.code.packages.torch" is "0.1" there' in done.err
    (ending,) = (tmp_path / "sweep" / made.name / "tasks").glob("*.released")  # not one of the tries
    assert ending.name == "000000.1.released"


def test_start_prints_the_command_or_refuses(ovbench, tmp_path):
    assert "no plan of a sweep" in ovbench("sweep", "start", tmp_path).err
    plan(ovbench, tmp_path)
    assert ovbench("sweep", "start", tmp_path, "--on", "print").out == f"ovbench sweep work {tmp_path}\n"
    refused = ovbench("sweep", "start", tmp_path, "--on", "local", "--option", "partition=gpu")
    assert refused.code == 2 and 'the engine local has no option "partition"' in refused.err
    refused = ovbench("sweep", "plan", *CELL, "--out", "nothing://x/y")
    assert refused.code in (2, 3) and "Traceback" not in refused.err


@pytest.mark.slow
def test_a_folder_may_be_a_url(ovbench, plain, tmp_path, monkeypatch):
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    from ovbench.evaluation import part_file
    from ovbench.utils.folders import folder_at

    monkeypatch.setattr(part_file, "LARGEST", 2000)  # a header, and a line or two
    folder = folder_at(f"memory://{tmp_path.name}/runs")
    plan(ovbench, folder)
    assert ovbench("sweep", "work", folder).code == 0
    assert text_of(folder) == plain
    assert ovbench("sweep", "watch", folder, "--once", "--json").json()["finished"]
    other = folder_at(f"memory://{tmp_path.name}/eval")
    assert ovbench("eval", *CELL, "--limit", 2, "--out", other).code == 0
    kept = ("--bundle", "--save-predictions", "png")
    assert ovbench("eval", *CELL, "--out", other, *kept).code == 0  # resumes
    assert any(other.glob("*first3*.ovb.zip")) and len(list(other.glob("*/predictions/png/*.png"))) == IMAGES
    record = json.loads(next(path for path in other.glob("*.json") if "first3" in path.name).read_text())
    assert record["time"]["images_counted_now"] == 1
    assert len(lines(other)) == IMAGES and any(".2.jsonl" in part.name for part in other.glob("*/part-*.jsonl"))
    del record["time"]
    assert json.dumps(record, indent=1) == plain
    fresh = ovbench("eval", *CELL, "--out", other, "--fresh")
    assert fresh.code == 3 and "--fresh needs a folder of this machine" in fresh.err


@pytest.mark.slow
def test_region_maps_are_built_before_the_images_are_counted(ovbench, one_thread, own_mini, tmp_path):
    cell = ("-m", "corrclip", "-d", "mini", "--limit", 1, "--device", "cpu", *SMALL)
    done = ovbench("sweep", "plan", *cell, "--out", tmp_path)
    assert [task.kind for task in read_sweep(tmp_path).tasks] == ["prepare", "masks", "count", "record"], done.err
    done = ovbench("sweep", "work", tmp_path)
    assert done.code == 0, done.err
    made = read_sweep(tmp_path)
    ending = json.loads((tmp_path / "sweep" / made.name / "tasks" / "000001.1.done").read_text())
    assert ending["made"] == 1 and ending["failed"] == {}


@pytest.mark.slow
def test_results_are_read_by_url(ovbench, one_thread, tmp_path):
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    from ovbench.utils.folders import folder_at

    root = f"memory://{tmp_path.name}"
    for number in (1, 2):
        assert ovbench("eval", *CELL, "--shard", f"{number}/2", "--out", f"{root}/{number}").code == 0
    shards = [next(str(path.parent) for path in folder_at(f"{root}/{n}").glob("*/shard-*.json")) for n in (1, 2)]
    for _ in range(2):  # the second one replaces the first
        merged = ovbench("merge", *shards, "--out", f"{root}/merged", "--json")
        assert merged.code == 0 and merged.json()["dataset"]["images"] == IMAGES, merged.err
    (record,) = folder_at(f"{root}/merged").glob("*.json")
    shown = ovbench("table", "--runs", f"{root}/merged")
    assert shown.code == 0 and "maskclip" in shown.out, shown.err
    listed = ovbench("runs", "list", "--runs", f"{root}/merged", "--json").json()
    assert len(listed) == 1
    compared = ovbench("compare", record, f"{root}/merged/{listed[0]['id']}", "--json")
    assert compared.code == 0, compared.err


def test_a_missing_library_is_named_and_prepared_files_are_on_disks(ovbench, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    refused = ovbench("eval", "-m", "clip", "-d", "voc21", "--data-root", "gs://bucket/data", "--out", tmp_path)
    assert refused.code == 3 and "a library for the URL is missing" in refused.err and "gcsfs" in refused.err
    monkeypatch.setenv("OVBENCH_DATA", "gs://bucket/data")
    refused = ovbench("sweep", "plan", "-m", "clip", "-d", "voc21", "--out", tmp_path)
    assert refused.code == 3 and "gcsfs" in refused.err, refused.err
    refused = ovbench("data", "prepare", "voc21", "--source", tmp_path, "--data-root", "s3://bucket/data")
    assert refused.code == 2 and 'the folder of prepared files cannot be a URL: "s3:/bucket/data"' in refused.err


@pytest.mark.slow
def test_a_bank_is_built_before_and_its_error_is_told(ovbench, one_thread, tmp_path):
    out = tmp_path / "runs"
    wrong = f"bank build --images {tmp_path / 'none'} --out {tmp_path / 'bank'}"
    plan(ovbench, out, "--build", wrong)
    done = ovbench("sweep", "work", out)
    assert done.code == 4 and done.err.count("failed: task 0") == 3 and "exit code 2" in done.err, done.err
    seen = ovbench("sweep", "watch", out, "--json").json()
    assert seen["tasks"] == {"failed": 1, "blocked": IMAGES + 2}
    assert "exit code 2" in seen["errors"]["0"]
