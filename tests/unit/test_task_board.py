"""The board of a sweep: one worker gets a task, a silent worker loses it, and three tries are enough."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ovbench.cluster.sweep import Sweep, SweepCell, SweepTask
from ovbench.cluster.task_board import STALE_S, TRIES, Lease, TaskBoard, TaskState
from ovbench.cluster.worker import Heartbeat, LostLease
from ovbench.utils import folders
from ovbench.utils.files import machine_id
from ovbench.utils.folders import create_file, folder_at, names_in


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    if request.param == "disk":
        return tmp_path / "sweep"
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    return folder_at(f"memory://{tmp_path.name}-{os.getpid()}/sweep")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(folder, clock):
    made = TaskBoard(folder, clock)
    made.prepare()
    return made


def beat(board, worker, number, **more):
    board.beat(worker, {"beat": number, "machine": "elsewhere", "pid": 1, "ended": False, **more})


@pytest.mark.quick(1)
def test_one_worker_gets_a_task(board):
    assert board.take(7, TaskState(), "a") == Lease(7, 1)
    assert board.take(7, TaskState(), "b") is None
    assert board.states() == {7: TaskState(1, 0, True)} and board.worker_of(Lease(7, 1)) == "a"
    board.end(Lease(7, 1), "done", {"images": 3})
    assert board.states()[7].done == Lease(7, 1) and not board.states()[7].free
    assert board.ending(Lease(7, 1), "done") == {"images": 3}


def test_a_worker_without_heartbeat_loses_its_task_by_the_clock_of_the_other(board, clock):
    beat(board, "a", 1)
    lease = board.take(0, TaskState(), "a")
    assert board.release_stale(board.states()) == []  # seen for the first time
    clock.now += STALE_S + 1
    beat(board, "a", 2)
    assert board.release_stale(board.states()) == []  # it has changed
    clock.now += STALE_S + 1
    assert board.release_stale(board.states()) == [lease] and board.is_lost(lease)
    state = board.states()[0]
    assert state == TaskState(1, 1) and state.free
    second = board.take(0, state, "b")
    assert second == Lease(0, 2)
    board.end(lease, "done", {})  # the first one was only slow: its counts are as good
    assert board.states()[0].done == lease


def test_a_worker_that_has_ended_or_died_on_this_machine_loses_its_task_at_once(board):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    beat(board, "dead", 1, machine=machine_id(), pid=process.pid)
    beat(board, "ended", 1, ended=True)
    beat(board, "alive", 1, machine=machine_id(), pid=os.getpid())
    leases = [board.take(number, TaskState(), name) for number, name in enumerate(("dead", "ended", "alive"))]
    assert board.release_stale(board.states()) == leases[:2]


def test_three_tries_and_a_release_that_is_none(board):
    endings = ["failed", "released", "lost", "failed"]
    for number, ending in enumerate(endings, 1):
        state = board.states().get(0, TaskState())
        assert state.free
        assert board.take(0, state, "a") == Lease(0, number)
        board.end(Lease(0, number), ending, {"why": ending})
    assert TRIES == 3 and board.states()[0].failed


def task(kind, needs=(), after=()):
    return SweepTask(kind=kind, group=0, start=0, stop=2, needs=list(needs), after=list(after))


def test_tasks_wait_for_what_they_need_and_records_are_written_whatever_failed():
    tasks = [task("prepare"), task("count", [0]), task("count", [0]), task("record", after=[1, 2])]
    cell = SweepCell(
        method="clip", dataset="mini", label="", settings_sha256="", images=4, ids_sha256="", seconds_per_image=1.0,
        measured=False,
    )  # fmt: skip
    sweep = Sweep(version=1, name="s", directory="", job={"out": ""}, cells=[cell], groups=[[0]], tasks=tasks)
    done, failed, running = TaskState(1, done=Lease(0, 1)), TaskState(3, 3), TaskState(1, 0, True)
    assert sweep.statuses({}) == ["free", "waiting", "waiting", "waiting"]
    assert sweep.statuses({0: done, 1: running}) == ["done", "running", "free", "waiting"]
    assert sweep.statuses({0: done, 1: done, 2: failed}) == ["done", "done", "failed", "free"]
    assert sweep.statuses({0: failed}) == ["failed", "blocked", "blocked", "free"]


def test_a_worker_that_was_stopped_for_long_drops_its_task(board, monkeypatch):
    lease = board.take(0, TaskState(), "a")
    with Heartbeat(board, "a", stale_s=100.0) as heart:
        heart.begin(lease)
        heart.image()
        heart.lost.set()
        with pytest.raises(LostLease):
            heart.image()
        heart.begin(lease)
        heart._written -= 101.0
        with pytest.raises(LostLease):
            heart.image()
    (last,) = board.heartbeats().values()
    assert last["ended"] and last["images"] == 3 and last["host"] == socket.gethostname()


def test_a_file_is_created_once_also_without_links(tmp_path, monkeypatch):
    assert create_file(tmp_path / "a", b"1") and not create_file(tmp_path / "a", b"2")

    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folders.os, "link", no_links)
    assert create_file(tmp_path / "b", b"1") and not create_file(tmp_path / "b", b"2")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"1"
    assert sorted(names_in(tmp_path)) == ["a", "b"] and names_in(tmp_path / "none") == []
    assert isinstance(folder_at(f"file://{tmp_path}"), Path)
