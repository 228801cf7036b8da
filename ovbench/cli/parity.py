"""``ovbench parity``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ovbench.cli import options, say


@click.command()
@click.argument("cases", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CASE_DIR...")
@options.as_json
def parity(cases: tuple[Path, ...], as_json: bool) -> int:
    """Run the methods on recorded cases of official implementations and compare every stage (CPU, fp32).

    Exit code 1 if a stage differs, 3 if a case cannot be read.
    """
    from ovbench.results.console import show
    from ovbench.utils.errors import InputError
    from ovbench.utils.files import read_json

    done: list[dict[str, Any]] = []
    failed = unread = False
    for folder in cases:
        try:
            read_json(folder / "case.json")  # torch is imported only if there is a case
            from ovbench.parity.check import check_case

            report = check_case(folder)
        except InputError as error:
            unread = True
            done.append({"case": str(folder), "error": str(error)})
            say(f"error: {error}", err=True)
            continue
        failed |= not report.passed
        done.append({"path": str(folder), **report.as_dict()})
        if not as_json:
            from ovbench.parity.stage_table import stage_table

            show(stage_table(report))
    if as_json:
        click.echo(json.dumps(done, indent=1))
    return 1 if failed else 3 if unread else 0
