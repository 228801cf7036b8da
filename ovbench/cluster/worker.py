"""A worker of a sweep: takes tasks from the board until none is left, wherever it was started."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.cluster.loaded_group import LoadedGroup, UnlikeWorker, planned_cells, write_records
from ovbench.cluster.sweep import Status, SweepTask, board_of, is_finished, read_sweep
from ovbench.cluster.task_board import BEATS, STALE_S, TRIES, Lease, TaskBoard, TaskState
from ovbench.evaluation.plan import PlannedCell
from ovbench.regions.build_maps import build_maps, tasks_of
from ovbench.utils.errors import InputError, OvbenchError, Terminated, first_line
from ovbench.utils.files import machine_id, process_is_gone
from ovbench.utils.provenance import choose_device

LOG = logging.getLogger("ovbench")
POLL_S = 2.0  # time between two looks at a board without a free task


class WorkerResult(NamedTuple):
    """What a worker has done.

    Attributes:
        tasks: Number of tasks that it finished.
        errors: Reasons of tasks that it could not finish.
        failed: Images that failed, with the reason.
    """

    tasks: int
    errors: list[str]
    failed: dict[str, str]


class LostLease(Exception):
    """Another worker has taken the task of this one."""


class Heartbeat:
    """A thread that writes the heartbeat of a worker, and notices that another worker has taken its task.

    Args:
        board: The board.
        name: Name of the worker.
        stale_s: Time without a heartbeat after which a worker has lost its task.
    """

    def __init__(self, board: TaskBoard, name: str, stale_s: float = STALE_S):
        self.board, self.name, self.stale_s = board, name, stale_s
        self.task: Lease | None = None
        self.images, self.seconds, self._number = 0, 0.0, 0
        self.lost, self._end = threading.Event(), threading.Event()
        self._written = time.monotonic()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.write(ended=True)

    def write(self, *, ended: bool = False) -> None:
        """Write the heartbeat now."""
        with self._lock:
            self._number += 1
            facts = {
                "beat": self._number, "machine": machine_id(), "host": socket.gethostname(), "pid": os.getpid(),
                "time": time.time(), "task": self.task.name if self.task else "", "images": self.images,
                "seconds": round(self.seconds, 3), "ended": ended,
            }  # fmt: skip
            self.board.beat(self.name, facts)
            self._written = time.monotonic()

    def begin(self, lease: Lease) -> None:
        """Note the task of the worker."""
        self.task = lease
        self.lost.clear()
        self._written = time.monotonic()

    def image(self) -> None:
        """Note that an image is done.

        Raises:
            LostLease: If another worker has taken the task, or may have: this process was stopped for long.
        """
        self.images += 1
        if self.lost.is_set() or time.monotonic() - self._written > self.stale_s:
            raise LostLease

    def _run(self) -> None:
        while not self._end.wait(self.stale_s / BEATS):
            try:
                self.write()
                if self.task is not None and self.board.is_lost(self.task):
                    self.lost.set()
            except (InputError, OSError) as error:
                LOG.warning("no heartbeat could be written: %s", first_line(error))


class SweepWorker:
    """The loop of a worker.

    Args:
        out: Folder of the records.
        notify: Called with one line per task.
        stale_s: Time without a heartbeat after which a worker has lost its task.
        poll_s: Time between two looks at a board without a free task.
    """

    def __init__(
        self, out: Path, notify: Callable[[str], object] = print, stale_s: float = STALE_S, poll_s: float = POLL_S
    ):
        self.out, self.notify, self.stale_s, self.poll_s = out, notify, stale_s, poll_s
        self.sweep = read_sweep(out)
        if os.path.isdir(self.sweep.directory):
            os.chdir(self.sweep.directory)  # relative paths of the request
        self.board = board_of(out, self.sweep)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.loaded: LoadedGroup | None = None
        self.done, self.errors, self.failed = 0, [], {}  # type: ignore[var-annotated]
        self._failed_here: dict[int, float] = {}
        self._planned: tuple[int, PlannedCell] | None = None

    def run(self) -> WorkerResult:
        """Do tasks until none is left that this worker could do, or another plan is in the folder."""
        with Heartbeat(self.board, self.name, self.stale_s) as beat:
            while True:
                states = self.board.states()
                statuses = self.sweep.statuses(states)
                number = self._next(statuses, states)
                if number is not None:
                    lease = self.board.take(number, states.get(number, TaskState()), self.name)
                    if lease is not None:
                        self._do(lease, beat)
                        self._refuse_other_plan()
                    continue
                if is_finished(statuses):
                    return WorkerResult(self.done, self.errors, self.failed)
                lost = self.board.release_stale(states, self.stale_s)
                for lease in lost:
                    self._say_lost(lease, states[lease.task].tries + 1)
                if not lost:
                    time.sleep(self.poll_s)

    def _say_lost(self, lease: Lease, tries: int) -> None:
        """Say that the worker of a task is gone; with its last try the task has failed, which nobody else would say."""
        what = f"task {lease.task}, try {lease.attempt}: its worker has ended or gives no sign of life"
        if tries >= TRIES:
            self.errors.append(what)
        self.notify(f"failed: {what}" if tries >= TRIES else what)

    def _next(self, statuses: Sequence[Status], states: Mapping[int, TaskState]) -> int | None:
        """Return a free task: of the loaded group first, then of the group with the most work per worker."""
        free = [number for number, status in enumerate(statuses) if status == "free"]
        free = [number for number in free if number not in self._failed_here] or self._to_repeat(free)
        if not free:
            return None
        here = [number for number in free if self.loaded and self.sweep.tasks[number].group == self.loaded.group]
        if here:
            return here[0]
        left: dict[int, float] = {}
        workers: dict[int, int] = {}
        for task, status in zip(self.sweep.tasks, statuses, strict=True):
            if status not in ("done", "failed", "blocked"):
                left[task.group] = left.get(task.group, 0.0) + task.seconds
                workers[task.group] = workers.get(task.group, 1) + (status == "running")
        return max(free, key=lambda n: (left[self.sweep.tasks[n].group] / workers[self.sweep.tasks[n].group], -n))

    def _to_repeat(self, free: Sequence[int]) -> list[int]:
        """Return tasks that failed here: other workers get them first, because this machine may be the reason."""
        beats = self.board.heartbeats()
        others = (beat for name, beat in beats.items() if name != self.name and not beat.get("ended"))
        alone = all(process_is_gone(str(beat.get("machine")), int(beat.get("pid", 0))) for beat in others)
        return [n for n in free if alone or time.monotonic() - self._failed_here[n] > self.stale_s]

    def _do(self, lease: Lease, beat: Heartbeat) -> None:
        """Do a task; an error ends the task, not the worker."""
        task, start = self.sweep.tasks[lease.task], time.monotonic()
        facts: dict[str, Any] = {"worker": self.name}
        beat.begin(lease)
        try:
            facts |= self._work(task, lease, beat)
        except LostLease:
            self.notify(f"task {lease.task}: another worker has taken it")
            return
        except (KeyboardInterrupt, Terminated, UnlikeWorker):
            self.board.end(lease, "released", facts)
            raise
        except Exception as error:
            why = str(error) if isinstance(error, OvbenchError) else f"{type(error).__name__}: {first_line(error)}"
            if os.environ.get("OVBENCH_DEBUG"):
                LOG.exception("task %d failed", lease.task)
            self.errors.append(why)
            self._failed_here[lease.task] = time.monotonic()
            self.board.end(lease, "failed", facts | {"why": why})
            self.notify(f"failed: task {lease.task}, try {lease.attempt}: {why}")
            return
        finally:
            beat.task = None
            beat.seconds += time.monotonic() - start
        seconds = time.monotonic() - start
        self.board.end(lease, "done", facts | {"seconds": round(seconds, 3)})
        self.done += 1
        self.notify(f"done: {self._describe(task, lease.task)}, {seconds:.1f} s")

    def _work(self, task: SweepTask, lease: Lease, beat: Heartbeat) -> dict[str, Any]:
        """Do a task, and return what the board keeps of it."""
        if task.kind == "build":
            self.loaded = None  # frees the device
            return _build(task.command)
        if task.kind == "masks":
            return self._build_maps(task, beat)
        if task.kind == "record":
            records = write_records(self.sweep, self.out, task.group, *self._cost(task.group))
            return {"records": [path.name for _, path in records]}
        if self.loaded is None or self.loaded.group != task.group:
            self.loaded = None  # frees the device before the next networks are loaded
            self.loaded = LoadedGroup(self.sweep, self.out, task.group)
        if task.kind == "prepare":
            return {}
        counts = self.loaded.count(task, lease, beat.image)
        self.failed |= counts.failed
        return {
            "images": counts.images, "counted": counts.counted, "failed": counts.failed, "pixels": counts.pixels,
        }  # fmt: skip

    def _build_maps(self, task: SweepTask, beat: Heartbeat) -> dict[str, Any]:
        if self._planned is None or self._planned[0] != task.group:
            self._planned = task.group, planned_cells(self.sweep, task.group)[0]
        first = self._planned[1]
        images = tasks_of(first.dataset)
        tasks = [images[number] for number in first.wanted_numbers[task.start : task.stop]]
        device = choose_device(self.sweep.request().device)
        built = build_maps(tasks, first.cell.regions, devices=[device], advance=beat.image)
        beat.images -= len(tasks)
        return {"made": built.made, "failed": built.failed}

    def _cost(self, group: int) -> tuple[int, float]:
        """Return the number of workers that counted a group, and the sum of their times."""
        leases = [state.done for number, state in self.board.states().items() if self._counts(number, group)]
        facts = [self.board.ending(lease, "done") for lease in leases if lease is not None]
        return len({each.get("worker") for each in facts}), sum(each.get("seconds", 0.0) for each in facts)

    def _counts(self, number: int, group: int) -> bool:
        return self.sweep.tasks[number].kind == "count" and self.sweep.tasks[number].group == group

    def _describe(self, task: SweepTask, number: int) -> str:
        if task.kind == "build":
            return f"task {number}: ovbench {shlex.join(task.command)}"
        cells = [self.sweep.cells[n] for n in self.sweep.groups[task.group]]
        what = f"{cells[0].method} on " + ", ".join(cell.dataset for cell in cells)
        images = f", images {task.start + 1} to {task.stop}" if task.stop else ""
        return f"task {number}: {task.kind} {what}{images}"

    def _refuse_other_plan(self) -> None:
        if read_sweep(self.out).name != self.sweep.name:
            raise InputError(
                "the folder has another plan now", where=str(self.out), fix="start workers again"
            )  # fmt: skip


def _build(words: Sequence[str]) -> dict[str, Any]:
    """Run a command of ovbench that builds; one that is stopped resumes when it is repeated.

    Raises:
        InputError: If it fails, with its last line.
    """
    done = subprocess.run([sys.executable, "-m", "ovbench", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        what = f"exit code {done.returncode}: {lines[-1] if lines else 'no message'}"
        raise InputError(what, where=f"ovbench {shlex.join(words)}", fix="run the command alone to see all its output")
    return {"built": list(words)}


def work(out: Path, notify: Callable[[str], object] = print, stale_s: float = STALE_S) -> WorkerResult:
    """Do tasks of the sweep in a folder until none is left.

    Args:
        out: Folder of the records.
        notify: Called with one line per task.
        stale_s: Time without a heartbeat after which a worker has lost its task.

    Raises:
        InputError: If the folder has no plan, or gets another one.
    """
    return SweepWorker(out, notify, stale_s).run()
