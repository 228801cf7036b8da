"""``ovbench eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovbench.cli import options, say

if TYPE_CHECKING:
    from ovbench.evaluation.plan import PlannedCell
    from ovbench.evaluation.request import Job
    from ovbench.results.drop_table import DropRow
    from ovbench.utils.errors import OvbenchError

TRACKER_NAMES = ("wandb", "tensorboard", "mlflow")


@click.command(name="eval")
@options.request
@click.option(
    "--cost", is_flag=True,
    help="Also measure parameters, FLOPs, latency, throughput, memory and energy on the first ten images.",
)  # fmt: skip
@click.option("--fresh", is_flag=True, help="Start again instead of resuming an earlier run of the cell.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first image that fails.")
@click.option(
    "--plan", "only_plan", is_flag=True,
    help="Print what would run, and exit: images, windows, earlier counts, missing weights, time and memory.",
)  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="Print no plan and no progress; only results, warnings and errors.")
@options.shard("see `ovbench merge`")
@click.option("--show", type=click.IntRange(min=0), default=0, metavar="N", help="Save overlays of the first N images.")
@click.option(
    "--save-predictions", type=click.Choice(["png", "npz", "confidence", "coco", "server"]),
    help="Keep the label maps beside the ledger: class indices as PNG or npz, npz with the confidence of every pixel, "
    "run-length masks as JSON, or values and names of the test server of Cityscapes or ADE20K. `ovbench report` shows "
    "them; see `ovbench score` too.",
)  # fmt: skip
@click.option(
    "--bundle", is_flag=True,
    help="Also write each record with its counts into one file, NAME.ovb.zip, as `ovbench runs pack` does.",
)  # fmt: skip
@click.option(
    "--page", type=click.Path(path_type=Path), metavar="FILE.md", help="Also write the rows of the suite as Markdown."
)
@click.option(
    "--log", "trackers", multiple=True, type=click.Choice(TRACKER_NAMES),
    help="Also log every record to a tracker, by its own library: files in --out, or where its environment says. "
    "Repeatable.",
)  # fmt: skip
@options.as_json
def evaluate(**arguments: Any) -> int:
    """Evaluate methods on benchmarks and write one result record per cell.

    \b
    ovbench eval --method clip --method maskclip --method corrclip --dataset mini
    ovbench eval -m corrclip -d ade150 --data-root /data --limit 100
    ovbench eval --suite corrclip-table2 -d mini
    """
    from ovbench.evaluation.request import Job, check_request

    trackers, bundle = arguments.pop("trackers"), arguments.pop("bundle")
    as_json, page, only_plan = arguments.pop("as_json"), arguments.pop("page"), arguments.pop("only_plan")
    if page is not None and arguments["suite"] is None:
        raise click.UsageError("--page writes the rows of a suite; give --suite.")
    shard = options.resolve_shard(arguments["shard"])
    job = Job(**{**arguments, "shard": shard})
    if trackers:
        from ovbench.results.trackers import require_trackers

        require_trackers(trackers)
    check_request(job)  # a mistake is answered before torch is imported, which takes seconds
    from ovbench.evaluation.distributed import ProcessGroup
    from ovbench.evaluation.plan import plan
    from ovbench.evaluation.predictions import predictions_folder
    from ovbench.evaluation.run_groups import run_groups
    from ovbench.results.console import show, summary_table
    from ovbench.results.drop_table import drop_table

    processes = ProcessGroup()
    cells = plan(job, processes, fetch=not only_plan)
    if processes.is_main:
        _print_plan(cells, job, only_plan, as_json)
    if only_plan:
        processes.close()
        return 0
    records, errors = [], []
    for result in run_groups(cells, job, processes):
        if result.error is not None:
            errors.append(result.error)
            names = ", ".join(planned.describe() for planned in result.cells)
            say(f"failed: {names}: {result.error}", err=True)
        for record, path in result.done:
            records.append(record)
            if processes.is_main:
                _print_record(record, path, not as_json and job.suite is None)
                errors += _log(record, path, trackers)
                if bundle:
                    _write_bundle(path)
                if job.save_predictions:
                    folder = predictions_folder(path.parent / record["ledger"], job.save_predictions)
                    say(f"predictions: {folder}", err=True)
    processes.close()
    if errors and not records:
        raise errors[0]
    if not processes.is_main:
        return 0
    labels = {planned.cell.digest(): planned.label for planned in cells if planned.label}
    if page is not None:
        _write_page(page, job.suite or "", records, labels)
    if as_json:
        click.echo(json.dumps(records[0] if len(records) == 1 else records, indent=1))
    else:
        show(summary_table(records, labels))
        if rows := _drops(job.suite, records, labels):
            show(drop_table(rows))
    return 4 if errors or any(record["failed"] for record in records) else 0


def _print_plan(cells: list[PlannedCell], job: Job, only_plan: bool, as_json: bool) -> None:
    """Print the plan: to stdout if it is asked for, otherwise its main lines to stderr."""
    from ovbench.evaluation.forecast import forecast, totals

    for dataset, note in dict.fromkeys((planned.cell.dataset, planned.note) for planned in cells if planned.note):
        say(f"warning: {dataset}: {note}", err=True)
    if job.quiet and not only_plan:
        return
    forecasts = forecast(cells, job.out)
    if only_plan and as_json:
        click.echo(json.dumps([one.as_dict() for one in forecasts], indent=1))
        return
    for one in forecasts:
        say(f"planned: {one.cell.describe()}", err=not only_plan)
        for line in one.lines() if only_plan else ():
            say(f"  {line}")
    for line in dict.fromkeys(line for planned in cells for line in planned.dataset.remarks):
        say(line, err=not only_plan)
    say(totals(forecasts, job.out), err=not only_plan)


def _print_record(record: dict[str, Any], path: Path, classes: bool) -> None:
    from ovbench.results.console import class_table, show

    if classes:
        show(class_table(record))
    for image, reason in record["failed"].items():
        say(f"failed: {image}: {reason}", err=True)
    say(f"record: {path}", err=True)


def _write_bundle(path: Path) -> None:
    from ovbench.results.bundle import write_bundle

    say(f"bundle: {write_bundle(path)}", err=True)


def _log(record: dict[str, Any], path: Path, trackers: tuple[str, ...]) -> list[OvbenchError]:
    """Log a record and return the errors of trackers, which do not end the run."""
    errors: list[OvbenchError] = []
    for name in trackers:
        from ovbench.results.trackers import log_record
        from ovbench.utils.errors import InputError

        try:
            log_record(name, record, path)
        except InputError as error:
            say(f"not logged: {error}", err=True)
            errors.append(error)
    return errors


def _drops(suite: str | None, records: list[dict[str, Any]], labels: dict[str, str]) -> list[DropRow]:
    """Return the drop of each row of a suite from its baseline; none without a baseline or groups of rows."""
    from ovbench.config.suites import suite_groups
    from ovbench.results.drop_table import drop_rows

    groups = suite_groups(suite) if suite else None
    has_drops = groups and (groups.baseline or any(groups.groups.values()))
    return drop_rows(records, labels, groups) if has_drops else []


def _write_page(path: Path, suite: str, records: list[dict[str, Any]], labels: dict[str, str]) -> None:
    from ovbench.config.suites import suite_heading
    from ovbench.results.drop_table import drop_page
    from ovbench.results.suite_table import suite_page
    from ovbench.utils.files import write_bytes

    title, source = suite_heading(suite)
    rows = _drops(suite, records, labels)
    page = suite_page(Path(suite).stem, title, source, records, labels, drop_page(rows) if rows else "")
    write_bytes(path, page.encode())
    say(f"page: {path}", err=True)
