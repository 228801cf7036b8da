"""The plan of a sweep: its cells, and the tasks that workers take one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ovbench.cluster.build_tasks import is_build
from ovbench.cluster.task_board import TaskBoard, TaskState
from ovbench.evaluation.request import Job
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json, write_json
from ovbench.utils.folders import folder_at
from ovbench.utils.paths import real_path
from ovbench.utils.typed import Typed, validate

FOLDER = "sweep"  # below the folder of the records
Kind = Literal["build", "prepare", "masks", "count", "record"]
Status = Literal["done", "running", "free", "waiting", "failed", "blocked"]
SETTLED = ("done", "failed", "blocked")


class SweepTask(Typed):
    """One task: what a worker takes at once.

    Attributes:
        kind: "build" builds a reference set or bank; "prepare" loads the networks once, which fetches weights and
            embeds the class names; "masks" builds region maps; "count" labels images; "record" writes the records.
        group: The group of cells with the same features.
        start: Position of its first image in the images of the group.
        stop: Position behind the last one.
        seconds: Estimated time.
        needs: Tasks that must be done before.
        after: Tasks that must have ended before, done or not.
        command: Words of the command of ovbench that builds.
    """

    kind: Kind
    group: int
    start: int = 0
    stop: int = 0
    seconds: float = 0.0
    needs: list[int] = Field(default_factory=list)
    after: list[int] = Field(default_factory=list)
    command: list[str] = Field(default_factory=list)


class SweepCell(Typed):
    """One cell of the sweep, for the display and to check the data of a worker.

    Attributes:
        method: Its method.
        dataset: Its dataset.
        label: Label of its row in a suite.
        settings_sha256: Hash of its settings.
        images: Number of wanted images.
        ids_sha256: Hash of the ids of its images.
        seconds_per_image: ImageCost.
        measured: Whether the estimate is from an earlier record.
    """

    method: str
    dataset: str
    label: str
    settings_sha256: str
    images: int
    ids_sha256: str
    seconds_per_image: float
    measured: bool


class Sweep(Typed):
    """The content of the plan's file.

    Attributes:
        version: Version of this format.
        name: Name of the plan; another plan in the same folder has another one.
        directory: Working directory of the request, for relative paths in it.
        job: The request, as for `ovbench.evaluation.request.Job`.
        cells: All cells, in the order of the request.
        groups: Positions of the cells that run together.
        tasks: All tasks.
    """

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[\w-]{1,100}$")]
    directory: str
    job: dict[str, Any]
    cells: list[SweepCell]
    groups: list[list[int]]
    tasks: list[SweepTask]

    @model_validator(mode="after")
    def _check(self) -> Sweep:
        """Refuse numbers of cells, groups and tasks that do not exist, and a request with other fields."""
        if any(not 0 <= cell < len(self.cells) for group in self.groups for cell in group) or not all(self.groups):
            raise ValueError("a group has cells that are not in the plan")
        for number, task in enumerate(self.tasks):
            if not 0 <= task.group < len(self.groups) or any(not 0 <= n < number for n in (*task.needs, *task.after)):
                raise ValueError(f"task {number} needs what is not in the plan")
            if (task.kind == "build") != bool(task.command) or (task.command and not is_build(task.command)):
                raise ValueError(f"task {number} has a command that builds nothing")
        self.request()
        return self

    def request(self) -> Job:
        """Return the request."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(Job):
            value = self.job.get(field.name, field.default)
            if isinstance(value, list):
                value = tuple(value)
            elif isinstance(value, str) and "Path" in str(field.type):
                value = folder_at(value) if field.name == "out" else Path(value)
            values[field.name] = value
        out = Path() if isinstance(self.job.get("out"), str) else None  # a URL is another type
        validate(Job, self.job | values | {"out": out}, "job of the plan")
        return Job(**values)

    def statuses(self, states: Mapping[int, TaskState]) -> list[Status]:
        """Return the status of every task; a task that needs a failed one is blocked.

        Args:
            states: From the board; a task that was never taken is missing.
        """
        found: list[Status] = []
        for number, task in enumerate(self.tasks):  # needs and after name earlier tasks only
            found.append(_status(states.get(number, TaskState()), task, found))
        return found

    def images(self, task: SweepTask) -> int:
        """Return the number of images that a task counts, over all cells of its group."""
        return (task.stop - task.start) * len(self.groups[task.group]) if task.kind == "count" else 0


def _status(state: TaskState, task: SweepTask, earlier: Sequence[Status]) -> Status:
    if state.done:
        return "done"
    if any(earlier[need] in ("failed", "blocked") for need in task.needs):
        return "blocked"
    if state.running:
        return "running"
    if state.failed:
        return "failed"
    ready = all(earlier[need] == "done" for need in task.needs) and _all_settled(earlier[one] for one in task.after)
    return "free" if ready else "waiting"


def _all_settled(statuses: Iterable[Status]) -> bool:
    return all(status in SETTLED for status in statuses)


def is_finished(statuses: Iterable[Status]) -> bool:
    """Return whether no task is left that a worker could do."""
    return _all_settled(statuses)


def job_as_data(job: Job) -> dict[str, Any]:
    """Return a request as JSON data; a local folder of records becomes absolute, so that workers may start anywhere."""
    data = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    for name, value in data.items():
        data[name] = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    out = real_path(job.out) if isinstance(job.out, Path) else job.out
    return {**data, "out": str(out)}


def write_sweep(out: Path, sweep: Sweep) -> None:
    """Write a plan and create its board.

    Args:
        out: Folder of the records.
        sweep: The plan.
    """
    board_of(out, sweep).prepare()
    write_json(out / FOLDER / "plan.json", sweep.model_dump(mode="json"))


def read_sweep(out: Path) -> Sweep:
    """Read the newest plan of a folder.

    Raises:
        InputError: If there is none, or it is malformed.
    """
    path = out / FOLDER / "plan.json"
    if not path.exists():
        raise InputError("no plan of a sweep", where=str(path), fix="run: ovbench sweep plan --out FOLDER ...")
    return validate(Sweep, read_json(path), str(path), what="the plan of a sweep")


def board_of(out: Path, sweep: Sweep) -> TaskBoard:
    """Return the board of a plan."""
    return TaskBoard(out / FOLDER / sweep.name, count=len(sweep.tasks))
