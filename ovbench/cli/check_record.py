"""``ovbench check-record``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options


@click.command(name="check-record")
@click.argument("files", nargs=-1, required=True, type=options.RECORD, metavar="RECORD|FOLDER...")
@options.as_json
def check_record(files: tuple[Path, ...], as_json: bool) -> int:
    """Check records that are handed in for the leaderboard. Exit code 3 if one is refused.

    A record must be complete, of a benchmark and classes that ovbench ships, with scores that follow from its counts,
    settings that have its hash, code without local changes, and real networks. A ledger beside it is compared with it.

    \b
    ovbench check-record results/measured
    """
    from ovbench.results.check_record import FAIL, check_files

    results = check_files(files)
    if as_json:
        click.echo(json.dumps({name: [c._asdict() for c in checks] for name, checks in results.items()}, indent=1))
    else:
        _print(results)
    return 3 if any(check.verdict == FAIL for checks in results.values() for check in checks) else 0


def _print(results: dict) -> None:
    from rich.table import Table

    from ovbench.results.console import plain, show

    for name, checks in results.items():
        table = Table(title=plain(name), title_justify="left")
        for column in ("check", "result", "detail"):
            table.add_column(column, overflow="fold")
        for check in checks:
            table.add_row(*map(plain, check))
        show(table)
