"""``ovbench compare``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options


@click.command()
@click.argument("first", type=options.RECORD)
@click.argument("second", type=options.RECORD)
@click.option("--most", type=click.IntRange(min=0), default=10, show_default=True, help="Number of images to list.")
@options.metric("Another metric whose change to estimate, such as fwIoU or mIoU@345; see docs/metrics.md.")
@options.similarity
@options.as_json
def compare(first: Path, second: Path, most: int, metric: str | None, similarity: str | None, as_json: bool) -> None:
    """Compare the records FIRST and SECOND of one benchmark.

    Prints the change of mIoU with its paired 95 % interval over images, the change of each class with its corrected
    p-value, the settings that differ, and the images that changed most.

    \b
    ovbench compare runs/maskclip-mini-1a2b3c4d.json runs/corrclip-mini-5e6f7a8b.json
    """
    from ovbench.metrics.named import parse_metric
    from ovbench.results.compare import as_dict, compare_runs, load_run, tables
    from ovbench.results.console import show
    from ovbench.results.metric_values import similarity_of

    chosen = parse_metric(metric or "mIoU")
    one, other = load_run(first), load_run(second)
    result = as_dict(compare_runs(one, other, chosen, similarity_of(one.record, chosen, similarity)), most)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        show(*tables(result))
