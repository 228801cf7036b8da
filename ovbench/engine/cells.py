"""From a request for methods and benchmarks to finished records: resolve everything first, then run cell by cell."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ovbench import __version__, env
from ovbench.config import Cell, override_pairs, resolve
from ovbench.data.card import load_card, read_classes_file, vocabulary
from ovbench.data.read import Dataset, open_dataset
from ovbench.engine.share import Shard, Team, parse_shard
from ovbench.errors import UsageError
from ovbench.results.store import write_json


@dataclass(frozen=True)
class Job:
    """What was asked for; every method runs on every dataset."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    limit: int | None = None
    subset: Path | None = None
    classes: Path | None = None
    settings: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    device: str = "auto"
    data_root: Path | None = None
    label_rule: str = "correct"
    out: Path = Path("runs")
    show: int = 0
    shard: str | None = None
    fresh: bool = False
    fail_fast: bool = False


@dataclass(frozen=True)
class PlannedCell:
    """A cell whose settings, vocabulary and files have been found to be there."""

    cell: Cell
    dataset: Dataset
    vocabulary: tuple[tuple[str, ...], ...]
    device: str
    limit: int | None = None
    shard: Shard | None = None

    @property
    def wanted(self) -> list[str]:
        """Ids of the images that the record is about, in the order of the split."""
        ids = [item.id for item in self.dataset.items][: self.limit]
        return ids if self.shard is None else self.shard.take(ids)

    def describe(self) -> str:
        backbones = ", ".join(f"{kind} {spec}" for kind, spec in self.cell.backbones.items())
        part = f" (shard {self.shard.number}/{self.shard.of})" if self.shard else ""
        what = f"{self.cell.method} on {self.cell.dataset}, {len(self.wanted)} images{part}"
        return f"{what}, {backbones}, on {self.device}"

    @property
    def folder_name(self) -> str:
        """The cell's folder: unlike settings give unlike names."""
        return f"{self.cell.method}-{Path(self.cell.dataset).stem}-{self.cell.digest()[:8]}"

    @property
    def record_name(self) -> str:
        """The record's file: besides, unlike images give unlike names."""
        part = "" if self.limit is None else f"-first{self.limit}"
        subset = "" if len(self.dataset) == self.dataset.card.image_count else f"-{self.dataset.ids_sha256[:8]}"
        shard = f"-shard{self.shard.number}of{self.shard.of}" if self.shard else ""
        return f"{self.folder_name}{part}{subset}{shard}.json"


def plan(job: Job, team: Team) -> list[PlannedCell]:
    """Resolve every cell. All that is wrong with a request is said here, before anything runs."""
    device, shard = env.choose_device(job.device, team.local_rank), parse_shard(job.shard)
    settings, weights = override_pairs(job.settings, "--set"), override_pairs(job.weights, "--weights")
    cells = [resolve(method, name, settings, weights) for method in job.methods for name in job.datasets]
    if team.leads:
        datasets = {name: _open(name, job) for name in job.datasets}
    team.wait()  # a generated benchmark is drawn by one process
    if not team.leads:
        datasets = {name: _open(name, job) for name in job.datasets}
    return [
        PlannedCell(
            cell, datasets[cell.dataset], _vocabulary(cell, datasets[cell.dataset], job), device, job.limit, shard
        )
        for cell in cells
    ]


def _open(name: str, job: Job) -> Dataset:
    dataset = open_dataset(load_card(name), job.data_root, label_rule=job.label_rule)
    if job.subset is None:
        return dataset
    from ovbench.data.subset import read_manifest

    return dataset.subset(read_manifest(job.subset))


def _vocabulary(cell: Cell, dataset: Dataset, job: Job) -> tuple[tuple[str, ...], ...]:
    if job.classes is None:
        return vocabulary(dataset.card, cell.protocol.vocabulary or None)
    given, wanted = read_classes_file(job.classes), len(dataset.card.classes)
    if len(given) != wanted:
        raise UsageError(
            f"{len(given)} classes given for the {wanted} of {dataset.card.name}", where=str(job.classes),
            fix="write one line per class, in label order",
        )  # fmt: skip
    return given


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
            "classes": list(card.classes),
            "background": card.background,
        },
        "vocabulary": [list(queries) for queries in planned.vocabulary],
        "weights": weights,
    }


def run_cell(planned: PlannedCell, job: Job, team: Team) -> tuple[dict[str, Any], Path]:
    """Evaluate one cell, or what of it the ledger lacks, with a progress bar on stderr.

    Returns the record and where it was written; it is written also when the run is interrupted, then with the status
    "partial".
    """
    from ovbench.engine.ledger import LedgerPart, read_ledger
    from ovbench.engine.run import evaluate
    from ovbench.results.build import build_record
    from ovbench.results.overlay import Pictures
    from ovbench.segmentor import build

    started, start = datetime.now(timezone.utc), time.perf_counter()
    segmentor = build(planned.cell, planned.vocabulary, planned.dataset.card.background).on(planned.device)
    weights = {kind: {"name": loaded.spec, "sha256": loaded.sha256} for kind, loaded in segmentor.loaded.items()}
    header, folder = ledger_header(planned, weights), job.out / planned.folder_name
    if job.fresh and team.leads:
        shutil.rmtree(folder, ignore_errors=True)
    team.wait()
    done = team.agree({i: None for i, entry in read_ledger(folder, header).items() if entry.counts is not None})
    pictures = Pictures(folder, planned.dataset.card.classes, job.show)
    wanted = set(planned.wanted)
    left = [
        number
        for number, item in enumerate(planned.dataset.items)
        if item.id in wanted and (item.id not in done or pictures.lack(number, item.id))
    ]
    mine = team.take(left)
    name = planned.cell.method + " on " + planned.cell.dataset
    try:
        with (
            LedgerPart(folder, _part_name(planned, team), header) as ledger,
            tqdm(total=len(mine), desc=name, unit="image", disable=not team.leads) as bar,
        ):
            evaluate(
                segmentor, planned.dataset, mine, ledger, seen=pictures.save,
                advance=bar.update, fail_fast=job.fail_fast,
            )  # fmt: skip
        team.wait()
    finally:
        made_with = {
            "versions": env.versions(), "git": env.git_revision(), "device": env.device_name(planned.device)
        }  # fmt: skip
        timing = {
            "started": started.isoformat(timespec="seconds"),
            "total_s": round(time.perf_counter() - start, 3),
            "images_counted_now": len(mine),
            "processes": team.size,
            "peak_memory": env.peak_memory(planned.device),
        }
        record = build_record(header, planned.wanted, read_ledger(folder, header), made_with, timing)
        path = job.out / planned.record_name
        if team.leads:
            write_json(path, record)
    return record, path


def _part_name(planned: PlannedCell, team: Team) -> str:
    shard = f"shard{planned.shard.number}of{planned.shard.of}-" if planned.shard else ""
    return f"{shard}{team.rank}"
