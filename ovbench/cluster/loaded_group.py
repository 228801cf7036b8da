"""Count images of cells with the same features, task after task, with the networks kept loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.cluster.sweep import FOLDER, Sweep, SweepTask
from ovbench.cluster.task_board import Lease
from ovbench.data.image_ids import ids_sha256
from ovbench.evaluation.distributed import ProcessGroup
from ovbench.evaluation.due_images import DueImages, due_images
from ovbench.evaluation.evaluator import evaluate
from ovbench.evaluation.identity import ledger_header, region_maps, run_name
from ovbench.evaluation.ledger import Ledger, LedgerWriter, ledger_parts, read_ledger
from ovbench.evaluation.observed import method_facts
from ovbench.evaluation.plan import PlannedCell, plan
from ovbench.evaluation.runner import (
    CellLedger,
    CellResult,
    describe_run,
    open_pipeline,
    open_target,
    update_record,
    void_changed,
)
from ovbench.metrics.confusion import sum_by_class
from ovbench.utils.differences import mismatches
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json
from ovbench.utils.folders import create_file
from ovbench.utils.text import short_text
from ovbench.utils.typed import Typed, validate


class UnlikeWorker(InputError):
    """A worker with other software or another device than the first one."""


class TaskCounts(NamedTuple):
    """What a worker has counted in one task.

    Attributes:
        images: Images that have an entry in the ledger now, over all cells.
        counted: Images that this try has counted.
        failed: Ids of images that failed, with the reason.
        pixels: For each cell the counts by class of these images, see `ovbench.metrics.confusion.ClassPixels`.
    """

    images: int
    counted: int
    failed: dict[str, str]
    pixels: list[list[list[int]]]


def planned_cells(sweep: Sweep, group: int) -> list[PlannedCell]:
    """Return the cells of a group, with their files checked on this machine.

    Raises:
        InputError: If files are missing, or settings or images are not those of the plan.
    """
    cells = plan(sweep.request(), ProcessGroup.alone(), sweep.groups[group])
    for number, planned in zip(sweep.groups[group], cells, strict=True):
        wanted = sweep.cells[number]
        if planned.cell.digest() != wanted.settings_sha256:
            what = f"the settings of {wanted.method} on {wanted.dataset} are not those of the plan"
            raise InputError(what, fix="use the same version of ovbench, or plan again")
        if ids_sha256(planned.wanted) != wanted.ids_sha256:
            what = f"the images of {wanted.dataset} are not those of the plan"
            raise InputError(what, where=str(planned.dataset.root), fix="use the same files, or plan again")
    return cells


class GroupFacts(Typed):
    """What all workers of a group have in common: headers of the ledgers by number, device, and the method's facts."""

    cells: dict[str, dict[str, Any]]
    device: dict[str, Any]
    method: dict[str, Any]


class LoadedGroup:
    """The cells of a group with their pipeline on the device.

    Args:
        sweep: The plan.
        out: Folder of the records.
        group: Number of the group.

    Raises:
        InputError: If files are missing or differ from those of the plan.
        UnlikeWorker: If this machine has other code, libraries or another device than the first worker of the group.
    """

    def __init__(self, sweep: Sweep, out: Path, group: int):
        self.sweep, self.out, self.group = sweep, out, group
        self.pipeline, self.cells = open_pipeline(planned_cells(sweep, group))
        headers = [ledger_header(cell, self.pipeline) for cell in self.cells]
        self.ledgers = cell_ledgers(self.cells, headers, out)
        self.numbers = self.cells[0].wanted_numbers
        self._agree(headers)
        self._earlier: list[Ledger] | None = None

    def _agree(self, headers: list[dict[str, Any]]) -> None:
        """Write what the first worker has; every other one must have the same."""
        facts = {
            "cells": {str(number): header for number, header in enumerate(headers)},
            "device": describe_run(self.cells[0])["device"],
            "method": method_facts(self.pipeline, self.cells[0].dataset),
        }
        path = facts_path(self.out, self.sweep, self.group)
        if create_file(path, json.dumps(facts).encode()):
            return
        first, ours = read_facts(path), json.loads(json.dumps(facts))
        if self.sweep.job["mixed_devices"]:
            first |= {key: ours[key] for key in ("device", "method")}
        if different := mismatches(first, ours):
            name, there, here = different[0]
            raise UnlikeWorker(
                f'this worker is not like the first one of the sweep: "{name}" is {short_text(there)} there and '
                f"{short_text(here)} here",
                where=str(path), fix="start workers with the same software on devices of one model; for other models "
                "of one type plan with --mixed-devices",
            )  # fmt: skip

    def count(self, task: SweepTask, lease: Lease, advance: Callable[[], object]) -> TaskCounts:
        """Count the images of a task that have no valid counts.

        Args:
            task: The task.
            lease: The lease of this worker.
            advance: Called after each image; an exception ends the task, and counted images are kept.

        Returns:
            What is counted now.
        """
        numbers, maps = self.numbers[task.start : task.stop], region_maps(self.pipeline)
        if maps is not None:
            first = self.cells[0]
            maps.expect({item.id: item.image_path for item in first.dataset.items}, first.wanted)
        known = list(self._known(lease, numbers))
        todo = [
            due_images(one.cell.dataset, entries, numbers, maps)
            for one, entries in zip(self.ledgers, known, strict=True)
        ]
        mine = sorted({number for images in todo for number in images.due})
        if mine:
            self._evaluate(todo, mine, lease, advance)
            known = list(self._known(lease, numbers))
        return self._summary(numbers, known, sum(len(images.due) for images in todo))

    def _evaluate(
        self, todo: Sequence[DueImages], mine: Sequence[int], lease: Lease, advance: Callable[[], object]
    ) -> None:
        run = describe_run(self.cells[0], [images.newest for images in todo])
        part = f"{self.sweep.name}-{lease.task:06d}-{lease.attempt}"
        with ExitStack() as stack:
            targets = []
            for one, images in zip(self.ledgers, todo, strict=True):
                writer = stack.enter_context(LedgerWriter(one.folder, part, one.header, locked=False))
                targets.append(open_target(one, images, run, writer))
                void_changed(targets[-1], images, run)
            evaluate(self.pipeline, targets, mine, batch=self.cells[0].execution.batch, advance=advance)

    def _known(self, lease: Lease, numbers: Sequence[int]) -> Iterator[Ledger]:
        """Yield for each cell the entries of some images, from earlier runs and from all tries of this task."""
        if self._earlier is None:
            self._earlier = [read_ledger(one.folder, one.header, self._other_parts(one)) for one in self.ledgers]
        for one, earlier in zip(self.ledgers, self._earlier, strict=True):
            parts = ledger_parts(one.folder, f"{self.sweep.name}-{lease.task:06d}-*")
            images = [one.cell.dataset.items[number].id for number in numbers]
            found = earlier.chosen(images)
            found.add(read_ledger(one.folder, one.header, parts).chosen(images))
            yield found

    def _other_parts(self, ledger: CellLedger) -> list[Path]:
        return [part for part in ledger_parts(ledger.folder) if not part.name.startswith(f"part-{self.sweep.name}-")]

    def _summary(self, numbers: Sequence[int], known: Sequence[Ledger], counted: int) -> TaskCounts:
        pixels, failed, images = [], {}, 0
        for one, ledger in zip(self.ledgers, known, strict=True):
            entries = list(ledger.values())
            counts = [entry.counts for entry in entries if entry.counts is not None]
            failed |= {entry.image: entry.failed or "" for entry in entries if entry.counts is None}
            total = sum_by_class(counts, len(one.cell.dataset.card.classes))
            pixels.append([column.tolist() for column in total])
            images += len(entries)
        return TaskCounts(images, counted, failed, pixels)


def cell_ledgers(cells: Sequence[PlannedCell], headers: Sequence[dict[str, Any]], out: Path) -> list[CellLedger]:
    """Return the cells with the folders of their ledgers."""
    return [CellLedger(cell, head, out / run_name(head)) for cell, head in zip(cells, headers, strict=True)]


def facts_path(out: Path, sweep: Sweep, group: int) -> Path:
    """Return the file with what all workers of a group must have in common."""
    return out / FOLDER / sweep.name / f"group-{group}"


def read_facts(path: Path) -> dict[str, Any]:
    """Return what the first worker of a group wrote.

    Raises:
        InputError: If the file is missing or malformed.
    """
    facts = read_json(path)
    validate(GroupFacts, facts, str(path), what="the facts of a group", fix="plan again")
    return facts


def write_records(sweep: Sweep, out: Path, group: int, workers: int, seconds: float) -> list[CellResult]:
    """Write the records of a group from its ledgers, without loading networks.

    Args:
        sweep: The plan.
        out: Folder of the records.
        group: Number of the group.
        workers: Number of workers that counted.
        seconds: Sum of the times of all tasks.

    Raises:
        InputError: If no worker has loaded the group, or files are missing.
    """
    facts = read_facts(facts_path(out, sweep, group))
    cells = planned_cells(sweep, group)
    ledgers = cell_ledgers(cells, list(facts["cells"].values()), out)
    run = describe_run(cells[0])
    run["device"] = facts["device"]
    timing = {
        "started": run["started"],
        "total_s": round(seconds, 3),
        "processes": workers,
        "shared_with": [cell.cell.dataset for cell in cells],
    }
    return [update_record(one, out, run, timing, facts["method"]) for one in ledgers]
