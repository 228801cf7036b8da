"""The state of a sweep, from its board alone: no torch, and from any machine that sees the folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovbench.cluster.sweep import Status, Sweep, board_of, is_finished, read_sweep
from ovbench.cluster.task_board import Lease, TaskBoard, TaskState
from ovbench.metrics.confusion import ClassPixels
from ovbench.metrics.iou import scores
from ovbench.utils.errors import InputError, first_line

OPEN = ("free", "waiting", "running")


class CellProgress(NamedTuple):
    """What is counted of one cell so far.

    Attributes:
        method: Its method.
        dataset: Its dataset.
        label: Label of its row in a suite.
        images: Number of wanted images.
        done: Images of finished tasks, with those that failed.
        failed: Images that failed.
        miou: mIoU over the counted images as a fraction; None if there is none.
    """

    method: str
    dataset: str
    label: str
    images: int
    done: int
    failed: int
    miou: float | None


class Progress(NamedTuple):
    """The state of a sweep.

    Attributes:
        finished: Whether no task is left that a worker could do.
        tasks: Number of tasks by status.
        cells: The cells.
        rate: Images per second of all workers that are alive, over all cells; 0 if it is not known.
        eta_s: Estimated seconds until all images are counted; None if it is not known.
        workers: Heartbeats of the workers that have not ended, with ``silent_s``: the time since the last one.
        errors: Reasons of the tries that failed, by task.
        broken: Number of tasks that no worker can finish.
    """

    finished: bool
    tasks: dict[str, int]
    cells: list[CellProgress]
    rate: float
    eta_s: float | None
    workers: list[dict[str, Any]]
    errors: dict[int, str]
    broken: int

    @property
    def exit_code(self) -> int:
        """Return the exit code of the whole: 4 if a task or an image failed."""
        return 4 if self.broken or any(cell.failed for cell in self.cells) else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the state as JSON data."""
        return {**self._asdict(), "cells": [cell._asdict() for cell in self.cells]}


class SweepView:
    """A view of a sweep that reads every finished task once.

    Args:
        out: Folder of the records.
    """

    def __init__(self, out: Path):
        self.sweep: Sweep = read_sweep(out)
        self.board: TaskBoard = board_of(out, self.sweep)
        self._done: dict[int, dict[str, Any]] = {}
        self._pixels: dict[int, np.ndarray] = {}

    def progress(self) -> Progress:
        """Return the present state."""
        states = self.board.states()
        statuses = self.sweep.statuses(states)
        for number, state in states.items():
            if state.done is not None and number not in self._done:
                self._read(number, state.done)
        beats = [dict(beat, name=name) for name, beat in self.board.heartbeats().items() if not beat.get("ended")]
        workers = [beat | {"silent_s": round(max(0.0, time.time() - beat["time"]), 1)} for beat in beats]
        rate = self._rate(beats)
        left = sum(self.sweep.images(task) for task, status in self._tasks(statuses) if status in OPEN)
        counts = Counter(statuses)
        return Progress(
            is_finished(statuses), dict(counts), self._cells(), rate, left / rate if rate else None, workers,
            self._errors(states), counts["failed"] + counts["blocked"],
        )  # fmt: skip

    def _tasks(self, statuses: Sequence[Status]):
        return zip(self.sweep.tasks, statuses, strict=True)

    def _read(self, number: int, lease: Lease) -> None:
        facts = self.board.ending(lease, "done")
        self._done[number] = {key: facts[key] for key in ("failed", "counted", "seconds", "worker") if key in facts}
        if "pixels" not in facts:
            return
        cells = self.sweep.groups[self.sweep.tasks[number].group]
        try:
            for cell, pixels in zip(cells, facts["pixels"], strict=True):
                columns = ClassPixels(*np.array(pixels, np.int64))
                self._pixels[cell] = self._pixels.get(cell, 0) + np.stack(columns)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the counts of task {number} are not those of its cells: {first_line(error)}",
                where=str(self.board.tasks / f"{lease.name}.done"), fix="plan the sweep again",
            ) from None  # fmt: skip

    def _rate(self, beats: Sequence[Mapping[str, Any]]) -> float:
        """Return images per second of the tasks that living workers have finished."""
        alive = {beat["name"] for beat in beats}
        images: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        for facts in self._done.values():
            if facts.get("counted") and (worker := facts.get("worker")) in alive:
                images[worker] += facts["counted"]
                seconds[worker] += facts.get("seconds", 0.0)
        return sum(images[name] / seconds[name] for name in images if seconds[name])

    def _cells(self) -> list[CellProgress]:
        done: Counter[int] = Counter()
        failed: dict[int, set[str]] = {}
        for number, facts in self._done.items():
            task = self.sweep.tasks[number]
            if task.kind != "count":
                continue
            for cell in self.sweep.groups[task.group]:
                done[cell] += task.stop - task.start
                failed.setdefault(cell, set()).update(facts.get("failed", ()))
        return [
            CellProgress(
                cell.method, cell.dataset, cell.label, cell.images, done[number], len(failed.get(number, ())),
                self._miou(number),
            )
            for number, cell in enumerate(self.sweep.cells)
        ]  # fmt: skip

    def _miou(self, cell: int) -> float | None:
        if cell not in self._pixels:
            return None
        value = scores(ClassPixels(*self._pixels[cell])).miou
        return None if np.isnan(value) else float(value)

    def _errors(self, states: Mapping[int, TaskState]) -> dict[int, str]:
        """Return the last reason of every task that failed at least once and is not done."""
        found = {}
        for number, state in states.items():
            if state.done is None and state.tries:
                lease = Lease(number, state.attempts - state.running)
                for ending in ("failed", "lost"):
                    if (self.board.tasks / f"{lease.name}.{ending}").exists():
                        found[number] = self.board.ending(lease, ending).get("why", ending)  # type: ignore[arg-type]
        return found
