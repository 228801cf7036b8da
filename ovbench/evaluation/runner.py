"""Run planned cells: one loop over the images for cells with the same features, one ledger and record per cell."""

from __future__ import annotations

import dataclasses
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.evaluation.counting_runs import run_summaries, software_and_device
from ovbench.evaluation.devices import refuse_other_devices
from ovbench.evaluation.distributed import ProcessGroup
from ovbench.evaluation.due_images import DueImages, due_images, reused
from ovbench.evaluation.evaluator import Target, evaluate
from ovbench.evaluation.identity import (
    data_digest,
    ledger_header,
    record_name,
    record_stem,
    region_maps,
    run_name,
)
from ovbench.evaluation.ledger import (
    FORMAT,
    Entry,
    LedgerWriter,
    publish,
    read_header,
    read_ledger,
)
from ovbench.evaluation.merge import leave_for_merge
from ovbench.evaluation.observed import method_facts
from ovbench.evaluation.plan import PlannedCell
from ovbench.evaluation.predictions import saved_files
from ovbench.evaluation.progress import JobProgress, RunningScore
from ovbench.evaluation.record import EARLIER, read_earlier, write_record
from ovbench.evaluation.request import Job
from ovbench.evaluation.set_aside import set_aside
from ovbench.inference.pipeline import Pipeline, build_pipeline
from ovbench.inference.precision import execute
from ovbench.utils import provenance as env
from ovbench.utils.differences import mismatches
from ovbench.utils.errors import InputError
from ovbench.utils.folders import is_remote
from ovbench.utils.version import package_version

Notify = Callable[[str], object]


class CellResult(NamedTuple):
    """A record and its file."""

    record: dict[str, Any]
    path: Path


def group_cells(cells: Sequence[PlannedCell]) -> list[list[PlannedCell]]:
    """Group the cells that can run together, in the order of the request."""
    groups: list[list[PlannedCell]] = []
    for cell in cells:
        fitting = next((group for group in groups if group[0].has_same_features(cell)), None)
        if fitting is None:
            groups.append([cell])
        else:
            fitting.append(cell)
    return groups


class CellLedger(NamedTuple):
    """A planned cell with the header and the folder of its ledger."""

    cell: PlannedCell
    header: dict[str, Any]
    folder: Path


def run_cells(
    cells: Sequence[PlannedCell], job: Job, processes: ProcessGroup, notify: Notify | None = None,
    progress: JobProgress | None = None, maps: Any = None,
) -> list[CellResult]:  # fmt: skip
    """Evaluate the images that are missing in the ledgers of cells with the same features, with a progress bar.

    An interrupted run writes its records too, with the status "partial".

    Args:
        cells: From one group of `group_cells`.
        job: The request.
        processes: The processes of the run.
        notify: Called with lines about earlier counts, changed files and replaced ledgers; None prints them to stderr.
        progress: The line of progress of the job; None for one of these cells alone.
        maps: Label maps that are scored in place of a method's.

    Returns:
        One record per cell.

    Raises:
        ImageError: If an image failed, with ``fail_fast``.
        InputError: If a file cannot be read or written.
    """
    notify = (notify or _to_stderr) if processes.is_main and not job.quiet else (lambda line: None)
    start = time.perf_counter()
    pipeline, cells = open_pipeline(cells) if maps is None else (maps, cells)
    about = method_facts(pipeline, cells[0].dataset) if maps is None and processes.is_main else {}
    headers = [ledger_header(cell, pipeline) if maps is None else maps.header(cell) for cell in cells]
    ledgers = [CellLedger(cell, head, job.out / run_name(head)) for cell, head in zip(cells, headers, strict=True)]
    todo = _images_to_run(ledgers, pipeline, job, processes, notify)
    run = processes.broadcast(describe_run(cells[0], [images.newest for images in todo]))
    mine = processes.take(sorted({number for images in todo for number in (*images.due, *images.shown)}))
    with ExitStack() as stack:
        parts = [stack.enter_context(_open_ledger(one, processes)) for one in ledgers]
        targets = [
            open_target(one, images, run, part, job.show, job.save_predictions)
            for one, images, part in zip(ledgers, todo, parts, strict=True)
        ]
        for one, target, images in zip(ledgers, targets, todo, strict=True) if processes.is_main else ():
            void_changed(target, images, run)
            if one.cell.shard is not None:
                _leave_for_merge(one, about)
        wanted = len(cells[0].wanted_numbers)
        own = progress or stack.enter_context(closing(JobProgress(wanted, shown=processes.is_main and not job.quiet)))
        targets = [_with_score(*each, own) for each in zip(ledgers, targets, todo, strict=True)]
        datasets = [one.cell.dataset for one in cells]
        stack.enter_context(own.group(cells[0].cell.method, datasets, wanted, len(mine), [t.ledger for t in targets]))

        def records() -> list[CellResult]:
            timing = _timing(cells, run, time.perf_counter() - start, processes)
            how: dict[str, Any] = {"write": processes.is_main, "cost": cost}
            return [update_record(one, job.out, run, timing, about, **how) for one in ledgers]

        cost: dict[str, Any] | None = None
        try:
            evaluate(
                pipeline, targets, mine, batch=cells[0].execution.batch, advance=own.advance, fail_fast=job.fail_fast
            )
            publish(parts)
            processes.barrier()
            if cells[0].cost and processes.is_main and cells[0].wanted_numbers:
                cost = _measured_cost(pipeline, cells[0])
        except BaseException:
            for step in (lambda: publish(parts), records):
                with suppress(InputError):  # e.g. a full disk; the user must see the first error
                    step()
            raise
        return records()


def _with_score(ledger: CellLedger, target: Target, images: DueImages, progress: JobProgress) -> Target:
    """Return the target with a ledger that also keeps the mIoU so far, if that is shown."""
    if not progress.shown:
        return target
    earlier = read_ledger(ledger.folder, ledger.header) if images.kept else {}
    ids = [target.dataset.items[number].id for number in images.kept]
    counted = (counts for i in ids if (counts := earlier[i].counts) is not None)
    running = RunningScore(target.ledger, len(target.dataset.card.classes), counted)
    return target._replace(ledger=running)  # type: ignore[arg-type]


def _measured_cost(pipeline: Pipeline, cell: PlannedCell) -> dict[str, Any]:
    from ovbench.evaluation.cost import measure_cost  # only with --cost

    return measure_cost(pipeline, cell.dataset, cell.wanted_numbers, cell.execution, cell.device)


def open_pipeline(cells: Sequence[PlannedCell]) -> tuple[Pipeline, Sequence[PlannedCell]]:
    """Return the pipeline on its device, and the cells, without shared batches if the method does not support them.

    Args:
        cells: From one group of `group_cells`.
    """
    first = cells[0]
    env.use_device(first.device)  # third-party code may use the current device
    pipeline = build_pipeline(first.cell, first.queries.all, first.dataset.card.background, first.device)
    for other in cells[1:]:
        pipeline.add_vocabulary(other.cell, other.queries.all, other.dataset.card.background)
    execute(pipeline.method, first.execution)
    if not pipeline.method.windowwise or first.cell.protocol.crop == 0:
        cells = [dataclasses.replace(cell, execution=cell.execution._replace(batch=0)) for cell in cells]
    return pipeline, cells


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _images_to_run(
    ledgers: Sequence[CellLedger], pipeline: Pipeline, job: Job, processes: ProcessGroup, notify: Notify
) -> list[DueImages]:
    """Return the images of each cell that must run, after ``fresh`` has moved earlier ledgers."""
    if job.fresh and processes.is_main:
        for one in ledgers:
            _set_aside(one, notify)
    processes.barrier()
    todo = []
    if processes.is_main:
        for one in ledgers:
            _notify_other_code(one, job.out, notify)
            todo.append(_reported_due_images(one, pipeline, job, notify))
    return processes.broadcast(todo)


def _set_aside(ledger: CellLedger, notify: Notify) -> None:
    """Move the earlier ledger and records of a cell to a folder that is never read; other shards stay."""
    cell, header, folder = ledger
    shard = cell.shard
    prefix = f"shard{shard.number}of{shard.of}-" if shard else ""
    ending = f"-{prefix.rstrip('-')}.json" if shard else ".json"
    named = (path for path in folder.parent.glob(f"{record_stem(header)}*.json") if path.name.endswith(ending))
    records = [path for path in named if (read_earlier(path) or {}).get("ledger") == folder.name]
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S-%f")
    target = set_aside(folder, records, folder.parent / EARLIER / stamp, prefix)
    if target is not None:
        notify(f"the earlier ledger of {folder.name} and its records are kept in {target}")


def _notify_other_code(ledger: CellLedger, out: Path, notify: Notify) -> None:
    """Report why earlier counts with the same settings are not reused."""
    _, header, folder = ledger
    if folder.is_dir() or is_remote(folder):
        return
    for other in sorted(out.glob(f"{folder.name[:-8]}*/"), key=lambda path: path.stat().st_mtime, reverse=True):
        earlier = read_header(other)
        found = mismatches(earlier, {"format": FORMAT, **header}) if earlier is not None else []
        if found:
            notify(f"{folder.name} is counted again: {other.name} differs in {found[0].key}")
            return


def _reported_due_images(planned: CellLedger, pipeline: Pipeline, job: Job, notify: Notify) -> DueImages:
    """Return the images that must run, and report damaged lines, reused counts and changed files."""
    cell, header, folder = planned
    ledger, maps = read_ledger(folder, header), region_maps(pipeline)
    if maps is not None:
        maps.expect({item.id: item.image_path for item in cell.dataset.items}, cell.wanted)
    for remark in ledger.remarks():
        notify(f"{cell.cell.method} on {cell.cell.dataset}: {remark}")
    saved = saved_files(folder, cell.dataset.card, cell.cell.method, job.show, job.save_predictions)
    items, wanted = cell.dataset.items, cell.wanted
    images = due_images(cell.dataset, ledger, cell.wanted_numbers, maps, saved)
    kept = [ledger.run(items[number].id) for number in images.kept]
    if images.due and not job.mixed_devices:
        devices = ((run or {}).get("device") for run in kept)
        refuse_other_devices((*devices, _device(cell)), str(folder), "choose another --out, start again with --fresh")
    for line in reused(kept, [items[number].id for number in images.changed], len(wanted)):
        notify(f"{cell.cell.method} on {cell.cell.dataset}: {line}")
    return images


def describe_run(cell: PlannedCell, newest: Iterable[str] = ()) -> dict[str, Any]:
    """Return the description of this run; its start is after all earlier runs, even if a clock was set back.

    Args:
        cell: One of its cells.
        newest: Starts of the newest earlier runs.
    """
    now = datetime.now(timezone.utc)
    for earlier in newest:
        if earlier:
            now = max(now, datetime.fromisoformat(earlier) + timedelta(microseconds=1))
    start = now.isoformat(timespec="microseconds")
    return {"started": start, "ovbench": package_version(), "git": env.git_revision(), "device": _device(cell)}


def _device(cell: PlannedCell) -> dict[str, Any]:
    how = cell.execution
    return env.device_name(cell.device, how.precision, compiled=how.compiled, batch=how.batch)


def _open_ledger(ledger: CellLedger, processes: ProcessGroup) -> LedgerWriter:
    """Open the part of this process; a shard has parts of its own."""
    shard = ledger.cell.shard
    prefix = f"shard{shard.number}of{shard.of}-" if shard else ""
    unique = f"-{secrets.token_hex(4)}" if is_remote(ledger.folder) else ""  # no locks: every process has its own part
    return LedgerWriter(ledger.folder, f"{prefix}{processes.rank}{unique}", ledger.header)


def void_changed(target: Target, images: DueImages, run: dict[str, Any]) -> None:
    """Note in the ledger that the counts of changed images are not valid."""
    for number in images.changed:
        image = target.dataset.items[number].id
        target.ledger.add(Entry(image, None, None, {}, number, run=run, void=True))


def open_target(
    planned: CellLedger, images: DueImages, run: dict[str, Any], ledger: LedgerWriter, show: int = 0,
    predictions: str | None = None,
) -> Target:  # fmt: skip
    """Return a dataset of the loop over images, see `ovbench.evaluation.evaluator.Target`.

    Args:
        planned: The cell and its ledger.
        images: Its images that must run.
        run: This run, as from `describe_run`.
        ledger: Where counts are written.
        show: Number of overlays to save.
        predictions: Format of the label maps to save; None for none.
    """
    dataset = planned.cell.dataset
    saved = saved_files(planned.folder, dataset.card, planned.cell.cell.method, show, predictions)
    shown = frozenset(dataset.items[n].id for n in images.shown)
    due = frozenset(dataset.items[n].id for n in images.due)
    distractors = len(planned.cell.queries.distractors)
    confident = predictions == "confidence"
    return Target(dataset, ledger, due | shown, saved.save, shown, run, distractors, planned.cell.metrics, confident)


def _timing(
    cells: Sequence[PlannedCell], run: dict[str, Any], seconds: float, processes: ProcessGroup
) -> dict[str, Any]:
    return {
        "started": run["started"],
        "total_s": round(seconds, 3),
        "processes": processes.size,
        "shared_with": [cell.cell.dataset for cell in cells],
        "peak_memory": env.peak_memory(cells[0].device),
    }


def update_record(
    planned: CellLedger, out: Path, run: dict[str, Any], timing: dict[str, Any], facts: Mapping[str, Any], *,
    write: bool = True, cost: Mapping[str, Any] | None = None,
) -> CellResult:  # fmt: skip
    """Compute the record from the present content of the ledger, and write it.

    A record with the same content is not replaced, because its time and software are those of the counts.

    Args:
        planned: The cell and its ledger.
        out: Folder of the record.
        run: This run, as from `describe_run`.
        timing: Times of this run.
        facts: The fields about the method, as from `method_facts`.
        write: Whether to write the record.
        cost: The measured cost of labelling; None keeps an earlier one of the same code.
    """
    cell, header, folder = planned
    path, ledger = out / record_name(header, cell.limit, cell.shard), read_ledger(folder, header)
    before, wanted = read_earlier(path), cell.wanted
    entries = ledger.chosen(wanted)
    runs = run_summaries(entries)
    now = sum(one["images"] for one in runs if one["started"] == run["started"])
    if runs and not now:
        timing = {**timing, "started": runs[-1]["started"]}
    timing = {**timing, "images_counted_now": now, "counted": runs}
    made = {**software_and_device(header, entries, run), "published": cell.published.as_dict(), **facts}
    if cost is None and before is not None and before.get("code") == header["code"]:
        cost = before.get("cost")
    made |= {"cost": cost} if cost else {}
    about = {"limit": cell.limit, "shard": list(cell.shard) if cell.shard else None}
    from ovbench.evaluation.build_record import build_record  # scipy, which the first image need not wait for

    record = build_record(header, wanted, entries, made, timing, folder.name, about, cell.arguments)
    if before is not None and not now and _lasting(before) == _lasting(record):
        return CellResult(before, path)
    return CellResult(record, write_record(path, record) if write else path)


def _lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without its times and arguments."""
    return {key: value for key, value in record.items() if key not in ("schema", "arguments", "time")}


def _leave_for_merge(ledger: CellLedger, about: Mapping[str, Any]) -> None:
    cell, header, folder = ledger
    numbers = range(len(cell.dataset.items))[: cell.limit]
    facts = {
        "limit": cell.limit,
        "data_sha256": data_digest(cell.dataset, numbers),
        "versions": header["code"]["packages"],
        "device": _device(cell),
        "published": cell.published.as_dict(),
        "arguments": cell.arguments,
        **about,
    }
    assert cell.shard is not None  # others are not merged
    leave_for_merge(folder, cell.shard, cell.all_image_ids, facts)
