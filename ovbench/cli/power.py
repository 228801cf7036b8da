"""``ovbench power``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options, say


@click.command()
@click.argument("first", type=options.RECORD)
@click.argument("second", type=options.RECORD, required=False)
@click.option(
    "--difference", type=click.FloatRange(min=0, max=100, min_open=True), default=0.5, show_default=True, metavar="X",
    help="Difference to show, in percentage points.",
)  # fmt: skip
@options.metric("Another metric than mIoU; see docs/metrics.md.")
@options.similarity
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the subset.")
@options.as_json
def power(
    first: Path, second: Path | None, difference: float, metric: str | None, similarity: str | None, seed: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Say how many images show a difference between two records, and which subset does.

    Uses the ledgers beside the records only. With FIRST alone, the other run is assumed to err independently.

    \b
    ovbench power runs/maskclip-mini-1a2b3c4d.json runs/corrclip-mini-5e6f7a8b.json
    ovbench power runs/maskclip-mini-1a2b3c4d.json --difference 1
    """
    from ovbench.evaluation.record import warnings_of
    from ovbench.metrics.named import parse_metric
    from ovbench.results.compare import load_run
    from ovbench.results.console import show
    from ovbench.results.metric_values import similarity_of
    from ovbench.results.power import power_of, power_table, subset_command

    chosen = parse_metric(metric or "mIoU")
    runs = [load_run(path) for path in (first, second) if path is not None]
    found = power_of(runs, chosen, difference / 100, seed, similarity_of(runs[0].record, chosen, similarity))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    show(power_table(found))
    for note in warnings_of(run.record for run in runs):
        say(f"warning: {note}", err=True)
    if command := subset_command(found):
        say(f"subset: {command}", err=True)
