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
@options.as_json
def compare(first: Path, second: Path, most: int, as_json: bool) -> None:
    """Compare the records FIRST and SECOND of one benchmark.

    Prints the change of mIoU with its paired 95 % interval over images, the change of each class with its corrected
    p-value, the settings that differ, and the images that changed most.

    \b
    ovbench compare runs/maskclip-mini-1a2b3c4d.json runs/corrclip-mini-5e6f7a8b.json
    """
    from ovbench.results.compare import as_dict, compare_runs, load_run, tables
    from ovbench.results.console import show

    result = as_dict(compare_runs(load_run(first), load_run(second)), most)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        show(*tables(result))
