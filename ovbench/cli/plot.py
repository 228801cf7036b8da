"""``ovbench plot``."""

from __future__ import annotations

from pathlib import Path

import click

from ovbench.cli import options, say

KIND_NAMES = ("classes", "heatmap", "cost", "ablation")


@click.command()
@click.argument("kind", type=click.Choice(KIND_NAMES))
@click.argument("records", nargs=-1, required=True, type=options.RECORD, metavar="RECORD|FOLDER...")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, metavar="FILE",
    help="File to write: .png, .svg or .pdf.",
)  # fmt: skip
@click.option(
    "--classes", "most", type=click.IntRange(min=1), default=20, show_default=True, metavar="N",
    help="With many classes, draw the N best and the N worst of the first record.",
)  # fmt: skip
def plot(kind: str, records: tuple[Path, ...], out: Path, most: int) -> None:
    """Draw records as an image file. Needs matplotlib.

    KIND is "classes" (IoU of the best and the worst classes, records side by side), "heatmap" (methods by benchmarks),
    "cost" (seconds per image against mIoU) or "ablation" (mIoU of every record with its interval).

    \b
    ovbench plot classes runs/maskclip-mini-1a2b3c4d.json runs/corrclip-mini-5e6f7a8b.json --out classes.svg
    ovbench plot heatmap runs --out heatmap.png
    """
    from ovbench.evaluation.record import warnings_of
    from ovbench.results.plots import draw, gather

    found = gather(records)
    draw(kind, found, out, most)
    for note in warnings_of(one.record for one in found):
        say(f"warning: {note}", err=True)
    say(f"plot: {out}", err=True)
