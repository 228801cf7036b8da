"""``ovbench gate``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from ovbench.cli import options


def _number(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """A range lets NaN through: it is neither below nor above."""
    if math.isnan(value):
        raise click.BadParameter("nan is not a number of points", ctx, param)
    return value


@click.command()
@click.option("--baseline", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Baseline file.")
@click.option(
    "--update",
    is_flag=True,
    help="Write the baseline instead of checking against it; an existing one is measured anew, cell by cell.",
)
@options.methods("With --update: the methods of a new baseline; else only these of it. Repeatable.")
@options.datasets("With --update: benchmarks.")
@click.option("--limit", type=click.IntRange(min=2), metavar="N", help="With --update: only the first N images.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0, max=100), callback=_number, default=0.2, show_default=True,
    help="Points of mIoU that may be lost.",
)  # fmt: skip
@click.option("--fixed", is_flag=True, help="Judge by the tolerance alone, not also by the paired interval.")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Write the table for a pull request.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML.")
@options.settings
@options.device
@options.data_root
@options.as_json
def gate(
    baseline: Path, update: bool, methods: tuple[str, ...], datasets: tuple[str, ...], limit: int | None,
    tolerance: float, fixed: bool, markdown: Path | None, junit: Path | None, settings: tuple[str, ...], device: str,
    data_root: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Run every cell of a baseline again on the same images and compare: exit code 5 if one got worse.

    \b
    ovbench gate --baseline baseline.json --update -m corrclip -m maskclip -d mini --limit 20
    ovbench gate --baseline baseline.json --markdown gate.md --junit gate.xml
    """
    from ovbench.config.load import override_pairs
    from ovbench.results import gate as check
    from ovbench.results.console import plain, show
    from ovbench.utils.errors import UsageError, unknown
    from ovbench.utils.files import write_bytes, write_json

    if not update and (datasets or limit):
        raise UsageError("--dataset and --limit are for --update: a check runs the images of the baseline")
    with TemporaryDirectory() as folder:
        around = {"settings": settings, "device": device, "data_root": data_root, "out": Path(folder)}
        if update and methods and datasets:
            pairs = [(method, dataset) for method in methods for dataset in datasets]
            write_json(baseline, check.baseline_of(_runs(pairs, limit, around), limit))
            click.echo(f"baseline: {baseline}", err=True)
            return 0
        if update and (datasets or not baseline.exists()):
            raise UsageError("a new baseline needs methods and benchmarks", fix="give --method and --dataset")
        base = check.read_baseline(baseline, counts=not update)
        known = [c["cell"]["method"] for c in base["cells"]]
        for method in methods:
            if method not in known:
                raise unknown("method", method, known, where=str(baseline))
        cells = [c for c in base["cells"] if update or not methods or c["cell"]["method"] in methods]
        check.refuse_unasked_code(cells, methods, baseline)
        if update:
            limit = limit or base["limit"]
            write_json(baseline, check.baseline_of(_runs([_pair(c) for c in cells], limit, around), limit))
            click.echo(f"baseline: {baseline}", err=True)
            return 0
        chosen = override_pairs(settings, "--set")

        def same_settings(planned: list) -> None:
            for cell, now in zip(cells, planned, strict=True):
                check.refuse_other_settings(cell, now.cell.as_dict(), chosen, baseline)

        runs = _runs([_pair(c) for c in cells], base["limit"], around, same_settings)
        verdicts = [
            check.judge(cell, run, tolerance=tolerance / 100, paired=not fixed)
            for cell, run in zip(cells, runs, strict=True)
        ]
    if as_json:
        click.echo(json.dumps([v._asdict() for v in verdicts], indent=1))
    else:
        show(check.verdict_table(verdicts))
    for verdict in verdicts:
        for key, before, now in verdict.unlike:
            click.echo(plain(f"{verdict.name}: setting {key} was {before}, is {now}"), err=True)
        if verdict.no_interval:
            click.echo(plain(f"{verdict.name}: no interval, {verdict.no_interval}"), err=True)
    if markdown:
        write_bytes(markdown, check.markdown(verdicts).encode())
    if junit:
        check.write_junit(junit, verdicts)
    return 0 if all(v.passed for v in verdicts) else 5


def _pair(cell: Mapping[str, Any]) -> tuple[str, str]:
    return cell["cell"]["method"], cell["cell"]["dataset"]


def _runs(
    pairs: list[tuple[str, str]], limit: int | None, around: dict, look: Callable[[list], None] = lambda planned: None
) -> list:
    """Plan all pairs, have a ``look`` at the planned cells, evaluate them into a folder and load what they counted."""
    from ovbench.evaluation.distributed import ProcessGroup
    from ovbench.evaluation.plan import Job, plan
    from ovbench.evaluation.runner import run_cells
    from ovbench.results.compare import load_run

    processes, found = ProcessGroup(), []
    jobs = [Job(methods=(method,), datasets=(dataset,), limit=limit, **around) for method, dataset in pairs]
    planned = [plan(job, processes) for job in jobs]
    look([cell for cells in planned for cell in cells])
    for job, cells in zip(jobs, planned, strict=True):
        found += [load_run(done.path) for done in run_cells(cells, job, processes)]
    return found
