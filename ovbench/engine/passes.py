"""Running planned cells: one pass over the images for all cells that share it, a ledger and a record for each."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ovbench import __version__, env
from ovbench.engine.cells import Job, PlannedCell
from ovbench.engine.execution import execute, refuse_tf32
from ovbench.engine.ledger import LedgerPart, read_ledger
from ovbench.engine.run import Target, evaluate
from ovbench.engine.share import Team
from ovbench.results.build import build_record
from ovbench.results.merge import leave_for_merge
from ovbench.results.overlay import Pictures
from ovbench.results.store import write_json
from ovbench.segmentor import OpenVocabSegmentor, build


class Done(NamedTuple):
    """A record and where it was written."""

    record: dict[str, Any]
    path: Path


def group_passes(cells: Sequence[PlannedCell]) -> list[list[PlannedCell]]:
    """Cells that share a pass, in the order in which they were asked for."""
    groups: list[list[PlannedCell]] = []
    for cell in cells:
        fitting = next((group for group in groups if group[0].shares_pass(cell)), None)
        if fitting is None:
            groups.append([cell])
        else:
            fitting.append(cell)
    return groups


def ledger_header(planned: PlannedCell, weights: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Everything that two runs must share for their counts to be added up."""
    card, dataset = planned.dataset.card, planned.dataset
    return {
        "ovbench": __version__,
        "cell": planned.cell.as_dict(),
        "settings_sha256": planned.cell.digest(),
        "dataset": {
            "title": card.title,
            "split": card.split,
            "split_images": card.image_count,
            "layout": dataset.layout,
            "label_rule": dataset.label_rule,
            "subset_sha256": dataset.subset_sha256,
            "classes": list(card.classes),
            "background": card.background,
        },
        "vocabulary": [list(queries) for queries in planned.vocabulary],
        "weights": weights,
        "execution": planned.execution.as_dict(),
    }


def run_pass(cells: Sequence[PlannedCell], job: Job, team: Team) -> list[Done]:
    """Evaluate cells that share a pass, or what of them the ledgers lack, with a progress bar on stderr.

    Records are written also when the run is interrupted, then with the status "partial".
    """
    started, start = datetime.now(timezone.utc), time.perf_counter()
    segmentor, cells = _segmentor(cells)
    approximate = segmentor.method.approximations()
    weights = {kind: {"name": loaded.spec, "sha256": loaded.sha256} for kind, loaded in segmentor.loaded.items()}
    headers = [ledger_header(cell, weights) for cell in cells]
    folders = [job.out / cell.folder_name for cell in cells]
    for folder in folders if job.fresh and team.leads else ():
        shutil.rmtree(folder, ignore_errors=True)
    team.wait()
    due = team.agree([_due(*parts, job.show) for parts in zip(cells, headers, folders, strict=True)])
    mine = team.take(sorted({number for numbers in due for number in numbers}))
    title = f"{cells[0].cell.method} on " + ", ".join(cell.cell.dataset for cell in cells)
    with ExitStack() as stack:
        targets = [
            _target(cell, folder, header, numbers, job, stack.enter_context(LedgerPart(folder, part, header)))
            for cell, folder, header, numbers in zip(cells, folders, headers, due, strict=True)
            for part in (_part_name(cell, team),)
        ]
        for cell, folder in zip(cells, folders, strict=True) if team.leads else ():
            if cell.shard is not None:
                made_with = _made_with(cell, approximate)
                leave_for_merge(folder, cell.shard, cell.all_wanted, cell.whole_record_name, made_with)
        bar = stack.enter_context(tqdm(total=len(mine), desc=title, unit="image", disable=not team.leads))
        try:
            evaluate(
                segmentor, targets, mine, batch=cells[0].execution.batch, advance=bar.update, fail_fast=job.fail_fast
            )
            team.wait()
        finally:
            bar.close()
            timing = {
                "started": started.isoformat(timespec="seconds"),
                "total_s": round(time.perf_counter() - start, 3),
                "images_counted_now": len(mine),
                "processes": team.size,
                "shared_with": [cell.cell.dataset for cell in cells],
                "peak_memory": env.peak_memory(cells[0].device),
            }
            done = [_record(*parts, job, timing, approximate) for parts in zip(cells, headers, folders, strict=True)]
            for record, path in done if team.leads else ():
                write_json(path, record)
    return done


def _segmentor(cells: Sequence[PlannedCell]) -> tuple[OpenVocabSegmentor, Sequence[PlannedCell]]:
    """The method on its device, and the cells; without shared batches where its windows cannot be in any."""
    first = cells[0]
    segmentor = build(first.cell, first.vocabulary, first.dataset.card.background)
    for other in cells[1:]:
        segmentor.add_vocabulary(other.cell, other.vocabulary, other.dataset.card.background)
    refuse_tf32()
    execute(segmentor.method, first.execution)
    if not segmentor.method.windowwise or first.cell.protocol.crop == 0:
        cells = [dataclasses.replace(cell, execution=cell.execution._replace(batch=0)) for cell in cells]
    return segmentor.on(first.device), cells


def _due(cell: PlannedCell, header: dict[str, Any], folder: Path, show: int) -> list[int]:
    """Numbers of the wanted images that the ledger lacks, or that are to be shown and have no picture yet."""
    counted = {image for image, entry in read_ledger(folder, header).items() if entry.counts is not None}
    pictures, wanted = Pictures(folder, cell.dataset.card.classes, show), set(cell.wanted)
    return [
        number
        for number, item in enumerate(cell.dataset.items)
        if item.id in wanted and (item.id not in counted or pictures.lack(number, item.id))
    ]


def _target(
    cell: PlannedCell, folder: Path, header: dict[str, Any], numbers: list[int], job: Job, ledger: LedgerPart
) -> Target:
    pictures = Pictures(folder, cell.dataset.card.classes, job.show)
    return Target(cell.dataset, ledger, frozenset(cell.dataset.items[n].id for n in numbers), pictures.save)


def _record(
    cell: PlannedCell, header: dict[str, Any], folder: Path, job: Job, timing: dict[str, Any],
    approximate: dict[str, Any],
) -> Done:  # fmt: skip
    path, entries = job.out / cell.record_name, read_ledger(folder, header)
    made_with = _made_with(cell, approximate)
    return Done(build_record(header, cell.wanted, entries, made_with, timing, folder.name), path)


def _made_with(cell: PlannedCell, approximate: dict[str, Any]) -> dict[str, Any]:
    how = cell.execution
    device = env.device_name(cell.device, how.precision, compiled=how.compiled, batch=how.batch)
    made_with = {
        "versions": env.versions(), "git": env.git_revision(), "device": device, "published": cell.standing.as_dict()
    }  # fmt: skip
    return {**made_with, "approximate": approximate} if approximate else made_with


def _part_name(cell: PlannedCell, team: Team) -> str:
    shard = f"shard{cell.shard.number}of{cell.shard.of}-" if cell.shard else ""
    return f"{shard}{team.rank}"
