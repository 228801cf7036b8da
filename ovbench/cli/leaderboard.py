"""``ovbench leaderboard``."""

from __future__ import annotations

from pathlib import Path

import click

from ovbench.cli import options, say


@click.command()
@click.argument("runs", nargs=-1, type=options.RECORD, metavar="[RECORD|FOLDER]...")
@click.option(
    "--out", "-o", type=options.OutFolder(), default=Path("site"), show_default=True,
    metavar="FOLDER", help="Folder of the site.",
)  # fmt: skip
def leaderboard(runs: tuple[Path, ...], out: Path) -> None:
    """Write a static site of all published figures with the measured values of records beside them.

    It has a table of all methods and benchmarks with filters, one page per method and per benchmark with settings and
    sources, and plots of cost against mIoU. It needs no server and makes no request to another host. Without records,
    it has the published figures only.

    \b
    ovbench leaderboard runs --out site
    """
    from ovbench.results.leaderboard.site import write_site
    from ovbench.results.record_files import apart_by_data, records_at

    scored = [f for f in records_at(*runs) if f.record["metrics"]["mIoU"] is not None]
    pages = write_site(apart_by_data(scored), out)
    say(f"leaderboard: {out / 'index.html'} ({len(pages)} pages, {len(scored)} records)", err=True)
