"""``ovbench doctor``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options


@click.command()
@options.data_root
@options.as_json
def doctor(data_root: Path | None, as_json: bool) -> int:
    """Check versions, devices, cache, data and weights, and print a fix for each problem. Exit code 3 if there is one.

    \b
    ovbench doctor
    ovbench doctor --json > machine.json
    """
    from ovbench.evaluation.doctor import examine

    findings = examine(data_root)
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        from rich.table import Table

        from ovbench.results.console import show

        table = Table()
        for name in ("area", "state", "what", "fix"):
            table.add_column(name, overflow="fold")
        for finding in findings:
            table.add_row(*finding)
        show(table)
    return 3 if any(finding.state == "problem" for finding in findings) else 0
