"""From a request for methods and benchmarks to finished records: resolve everything first, then run cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ovbench.config import Cell, override_pairs, resolve
from ovbench.data.card import load_card, read_classes_file, vocabulary
from ovbench.data.read import Dataset, open_dataset
from ovbench.env import choose_device
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


@dataclass(frozen=True)
class PlannedCell:
    """A cell whose settings, vocabulary and files have been found to be there."""

    cell: Cell
    dataset: Dataset
    vocabulary: tuple[tuple[str, ...], ...]
    device: str
    limit: int | None = field(default=None)

    def describe(self) -> str:
        images = len(self.dataset) if self.limit is None else min(self.limit, len(self.dataset))
        backbones = ", ".join(f"{kind} {spec}" for kind, spec in self.cell.backbones.items())
        return f"{self.cell.method} on {self.cell.dataset}, {images} images, {backbones}, on {self.device}"

    def name(self) -> str:
        """File name of the record: unlike settings or images give unlike names."""
        part = "" if self.limit is None else f"-first{self.limit}"
        subset = "" if len(self.dataset) == self.dataset.card.image_count else f"-{self.dataset.ids_sha256[:8]}"
        return f"{self.cell.method}-{Path(self.cell.dataset).stem}{part}{subset}-{self.cell.digest()[:8]}"


def plan(job: Job) -> list[PlannedCell]:
    """Resolve every cell. All that is wrong with a request is said here, before anything runs."""
    device = choose_device(job.device)
    settings, weights = override_pairs(job.settings, "--set"), override_pairs(job.weights, "--weights")
    cells = [resolve(method, name, settings, weights) for method in job.methods for name in job.datasets]
    datasets = {name: _open(name, job) for name in job.datasets}
    return [
        PlannedCell(cell, datasets[cell.dataset], _vocabulary(cell, datasets[cell.dataset], job), device, job.limit)
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


def run_cell(planned: PlannedCell, job: Job) -> tuple[dict[str, Any], Path]:
    """Evaluate one cell, with a progress bar on stderr; its record and where it was written."""
    from ovbench.engine.run import Labelled, evaluate, make_record
    from ovbench.results.overlay import comparison, save_png
    from ovbench.segmentor import build

    segmentor = build(planned.cell, planned.vocabulary, planned.dataset.card.background).to(planned.device)
    names, shown = planned.dataset.card.classes, 0

    def seen(labelled: Labelled) -> None:
        nonlocal shown
        if shown < job.show:
            sample = labelled.sample
            picture = comparison(sample.image, sample.label, labelled.predicted, names)
            save_png(job.out / planned.name() / f"{sample.id.replace('/', '_')}.png", picture)
            shown += 1

    total = len(planned.dataset) if planned.limit is None else min(planned.limit, len(planned.dataset))
    with tqdm(total=total, desc=f"{planned.cell.method} on {planned.cell.dataset}", unit="image") as bar:
        result = evaluate(segmentor, planned.dataset, limit=planned.limit, seen=seen, advance=bar.update)
    record = make_record(segmentor, planned.dataset, result, limit=planned.limit)
    path = job.out / f"{planned.name()}.json"
    write_json(path, record)
    return record, path
