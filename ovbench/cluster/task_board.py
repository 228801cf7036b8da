"""Which worker does which task of a sweep: small files in one folder, without locks.

====================  =================================================================================
``tasks/000012.1``    the lease: a worker has taken task 12, try 1; of several workers one can create it
``.1.done``           the try has ended; with its images and counts
``.1.failed``         it has ended with an error
``.1.lost``           another worker has seen no heartbeat of its worker for `STALE_S`
``.1.released``       its worker was asked to stop; this is not one of the `TRIES`
``workers/NAME``      the heartbeat of a worker, written again every few seconds
====================  =================================================================================

Every name is written once and never removed, so a folder without rename or append, such as an object store, is enough.
Heartbeats are compared with themselves, so clocks may differ.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from ovbench.utils.errors import InputError, first_line
from ovbench.utils.files import process_is_gone, read_json, write_bytes
from ovbench.utils.folders import create_file, names_in
from ovbench.utils.typed import OpenTyped, validate

TRIES = 3
STALE_S = 60.0  # without a heartbeat for this time, a worker has lost its task
BEATS = 6  # heartbeats in this time
Ending = Literal["done", "failed", "lost", "released"]
_NUMBER, _WORKER = re.compile("[0-9]{1,9}"), re.compile(r"[\w.-]{1,255}")


Pixels = Annotated[int, Field(ge=0, lt=1 << 62)]


class TaskFacts(OpenTyped):
    """What a worker writes when a lease ends."""

    worker: str = ""
    why: str = ""
    images: int = 0
    counted: int = 0
    failed: dict[str, str] = Field(default_factory=dict)
    pixels: list[list[list[Pixels]]] | None = None
    seconds: Annotated[float, Field(ge=0)] = 0.0


class Beat(OpenTyped):
    """A heartbeat."""

    machine: str = ""
    pid: int = 0
    time: float = 0.0
    ended: bool = False


class Lease(NamedTuple):
    """A task that a worker has taken; ``attempt`` is counted from 1."""

    task: int
    attempt: int

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return f"{self.task:06d}.{self.attempt}"


class TaskState(NamedTuple):
    """What the board says about a task.

    Attributes:
        attempts: Number of leases so far.
        tries: Leases that ended without success, except released ones.
        running: Whether the last lease has not ended.
        done: The lease that has finished the task.
    """

    attempts: int = 0
    tries: int = 0
    running: bool = False
    done: Lease | None = None

    @property
    def failed(self) -> bool:
        """Return whether no worker may try again."""
        return self.done is None and not self.running and self.tries >= TRIES

    @property
    def free(self) -> bool:
        """Return whether a worker may take the task."""
        return self.done is None and not self.running and self.tries < TRIES


class TaskBoard:
    """The board of a sweep.

    Args:
        folder: Folder of the sweep.
        now: The clock, in seconds.
        count: Number of tasks in the plan; files of others are ignored. None if it is not known.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.monotonic, count: int | None = None):
        self.tasks, self.workers, self._now, self._count = folder / "tasks", folder / "workers", now, count
        self._seen: dict[str, tuple[Any, float]] = {}

    def prepare(self) -> None:
        """Create the folders; InputError if this is not possible."""
        for folder in (self.tasks, self.workers):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                what = f"cannot create the folder: {error.strerror or first_line(error)}"
                raise InputError(what, where=str(folder), fix="choose another --out") from None

    def states(self) -> dict[int, TaskState]:
        """Return the states of all tasks that were ever taken, from one listing."""
        found: dict[int, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for name in names_in(self.tasks):
            task, _, rest = name.partition(".")
            attempt, _, ending = rest.partition(".")
            if _NUMBER.fullmatch(task) and _NUMBER.fullmatch(attempt):
                found[int(task)][int(attempt)].add(ending)
        known = (task for task in found if self._count is None or task < self._count)
        return {task: _state(task, found[task]) for task in known}

    def take(self, task: int, state: TaskState, worker: str) -> Lease | None:
        """Take a task; None if another worker was faster."""
        lease = Lease(task, state.attempts + 1)
        return lease if create_file(self.tasks / lease.name, worker.encode()) else None

    def end(self, lease: Lease, ending: Ending, facts: Mapping[str, Any]) -> None:
        """Write how a lease has ended; a second ending of the same name is ignored."""
        create_file(self.tasks / f"{lease.name}.{ending}", json.dumps(facts).encode())

    def ending(self, lease: Lease, ending: Ending) -> dict[str, Any]:
        """Return what the worker wrote when its lease ended.

        Raises:
            InputError: If the file is damaged.
        """
        path = self.tasks / f"{lease.name}.{ending}"
        facts = read_json(path)
        validate(TaskFacts, facts, str(path), what="the end of a task")
        return facts

    def worker_of(self, lease: Lease) -> str:
        """Return the name of the worker that took a task, "" if its file is damaged."""
        name = (self.tasks / lease.name).read_bytes().decode(errors="replace")
        return name if _WORKER.fullmatch(name) else ""

    def is_lost(self, lease: Lease) -> bool:
        """Return whether another worker has declared a lease lost."""
        return (self.tasks / f"{lease.name}.lost").exists()

    def beat(self, worker: str, facts: Mapping[str, Any]) -> None:
        """Write a heartbeat; ``facts`` must change with every one."""
        write_bytes(self.workers / worker, json.dumps(facts).encode(), durable=False)

    def heartbeats(self) -> dict[str, dict[str, Any]]:
        """Return the last heartbeat of every worker."""
        return {
            name: beat for name in names_in(self.workers) if not name.startswith(".") and (beat := self._beat(name))
        }

    def release_stale(self, states: Mapping[int, TaskState], stale_s: float = STALE_S) -> list[Lease]:
        """Declare the leases of workers without a heartbeat lost.

        Args:
            states: From `states`.
            stale_s: Time without a change of the heartbeat, by the clock of this process.

        Returns:
            The leases.
        """
        leases = [Lease(task, state.attempts) for task, state in states.items() if state.running]
        lost = []
        for lease in leases:
            worker = self.worker_of(lease)
            if self._is_gone(worker, stale_s):
                self.end(lease, "lost", {"worker": worker, "why": "its worker has ended or gives no sign of life"})
                lost.append(lease)
        return lost

    def _beat(self, worker: str) -> dict[str, Any]:
        path = self.workers / worker
        try:
            return validate(Beat, read_json(path), str(path)).model_dump()
        except InputError:
            return {}

    def _is_gone(self, worker: str, stale_s: float) -> bool:
        beat, now = self._beat(worker), self._now()
        if beat.get("ended") or process_is_gone(str(beat.get("machine", "")), int(beat.get("pid", 0))):
            return True
        before, since = self._seen.get(worker, (None, now))
        if before is None or before != beat:
            self._seen[worker] = (beat, now)
            return False
        return now - since > stale_s


def _state(task: int, attempts: Mapping[int, set[str]]) -> TaskState:
    last = max(attempts)
    done = next((Lease(task, number) for number, names in sorted(attempts.items()) if "done" in names), None)
    tries = sum(bool(names & {"failed", "lost"}) for names in attempts.values())
    return TaskState(last, tries, done is None and attempts[last] == {""}, done)
