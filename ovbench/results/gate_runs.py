"""Measure the cells of a baseline, to write it or to compare the present code with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ovbench.config.load import override_pairs
from ovbench.evaluation.distributed import ProcessGroup
from ovbench.evaluation.record import is_bundle, is_record, read_earlier, read_record
from ovbench.evaluation.request import Job, check_request, job_of
from ovbench.metrics.named import METRICS, Metric
from ovbench.results.compare import CountedRun, load_run
from ovbench.results.gate import (
    TOLERANCE,
    Baseline,
    BaselineCell,
    Verdict,
    baseline_of,
    judge,
    read_baseline,
    refuse_other_settings,
    refuse_unasked_code,
    refuse_unknown_counts,
)
from ovbench.utils.errors import UsageError, unknown
from ovbench.utils.files import read_json, write_json

if TYPE_CHECKING:
    from ovbench.evaluation.plan import PlannedCell


@dataclass(frozen=True)
class GateRequest:
    """What the user asked the gate to measure; ``settings`` are ``KEY=VALUE`` texts.

    ``methods`` are those of a new baseline, or the ones of an existing baseline to measure (all if empty). ``datasets``
    and ``limit`` are only for a new baseline.
    """

    baseline: Path
    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    limit: int | None = None
    settings: tuple[str, ...] = ()
    device: str = "auto"
    data_root: Path | None = None


def update_baseline(request: GateRequest) -> None:
    """Measure the cells of a new or of an existing baseline and write the file.

    Raises:
        UsageError: If methods or datasets of a new baseline are missing.
        InputError: If the existing baseline cannot be read.
    """
    if is_bundle(request.baseline) or read_earlier(request.baseline) is not None:
        what = f'"{request.baseline.name}" is the record of a run, which a baseline must not replace'
        raise UsageError(what, where="--baseline", fix="write the baseline to another file")
    pairs, limit = [(method, dataset) for method in request.methods for dataset in request.datasets], request.limit
    if not pairs:
        if request.datasets or not request.baseline.exists():
            raise UsageError("a new baseline needs methods and benchmarks", fix="give --method and --dataset")
        old = read_baseline(request.baseline, counts=False)
        _refuse_unknown(request, old)
        refuse_unasked_code(old.cells, request.methods, request.baseline)
        pairs, limit = list(map(_pair, old.cells)), limit or old.limit
    write_json(request.baseline, baseline_of(_measure(_jobs(request, pairs, limit)), limit))


def check_baseline(
    request: GateRequest, *, tolerance: float = TOLERANCE, paired: bool = True, metric: Metric = METRICS["mIoU"],
    similarity: str | None = None,
) -> list[Verdict]:  # fmt: skip
    """Measure the cells of a baseline again and compare.

    Args:
        request: The request, without datasets and limit; the images are those of the baseline.
        tolerance: Largest allowed loss of the metric, as a fraction.
        paired: See `ovbench.results.gate.judge`.
        metric: The metric.
        similarity: Name or file of the similarity of classes, for metrics that use it.

    Raises:
        UsageError: If the request has datasets or a limit, or a method that is not in the baseline.
        InputError: If the baseline cannot be read, or settings have changed.
    """
    if request.datasets or request.limit:
        raise UsageError("--dataset and --limit are for --update: a check runs the images of the baseline")
    refuse_unknown_counts(metric)
    base, record = read_baseline(request.baseline), _record_of(request.baseline)
    _refuse_unknown(request, base)
    cells = [c for c in base.cells if not request.methods or c.cell.method in request.methods]
    refuse_unasked_code(cells, request.methods, request.baseline)
    chosen = override_pairs(request.settings, "--set")

    def same_settings(planned: Sequence[PlannedCell]) -> None:
        for cell, now in zip(cells, planned, strict=True):
            refuse_other_settings(cell, now.cell.as_dict(), chosen, request.baseline)

    if record is None:
        jobs = _jobs(request, list(map(_pair, cells)), base.limit)
    else:
        settings = {**record["arguments"].get("settings", {}), **chosen}
        how: dict[str, Any] = {"settings": settings, "device": request.device, "data_root": request.data_root}
        jobs = [job_of(record, str(request.baseline), run_code=bool(request.methods), **how)]
    runs = _measure(jobs, same_settings)
    how = {"tolerance": tolerance, "paired": paired, "metric": metric, "similarity": similarity}
    return [judge(cell, run, **how) for cell, run in zip(cells, runs, strict=True)]


def _refuse_unknown(request: GateRequest, base: Baseline) -> None:
    known = [c.cell.method for c in base.cells]
    for method in request.methods:
        if method not in known:
            raise unknown("method", method, known, where=str(request.baseline))


def _pair(cell: BaselineCell) -> tuple[str, str]:
    return cell.cell.method, cell.cell.dataset


def _record_of(path: Path) -> dict[str, Any] | None:
    """Return the record whose run is the baseline, if it has arguments; None for a file of a baseline."""
    record = read_record(path) if is_bundle(path) or is_record(read_json(path)) else {}
    return record if record.get("arguments") else None


def _jobs(request: GateRequest, pairs: Sequence[tuple[str, str]], limit: int | None) -> list[Job]:
    how: dict[str, Any] = {"settings": request.settings, "device": request.device, "data_root": request.data_root}
    return [Job((method,), (dataset,), limit=limit, **how) for method, dataset in pairs]


def _measure(
    jobs: Sequence[Job], check: Callable[[Sequence[PlannedCell]], None] = lambda planned: None
) -> list[CountedRun]:
    """Plan all jobs, ``check`` the planned cells, evaluate them in a temporary folder and load their counts."""
    with TemporaryDirectory() as folder:
        jobs = [replace(job, out=Path(folder)) for job in jobs]
        for job in jobs:
            check_request(job)
        from ovbench.evaluation.plan import plan
        from ovbench.evaluation.runner import run_cells

        processes, found = ProcessGroup(), []
        planned = [plan(job, processes) for job in jobs]
        check([cell for cells in planned for cell in cells])
        for job, cells in zip(jobs, planned, strict=True):
            found += [load_run(done.path) for done in run_cells(cells, job, processes)]
    return found
