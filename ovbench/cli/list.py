"""``ovbench list``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ovbench.cli import options, say


@click.group(name="list")
def listing() -> None:
    """List methods, datasets, backbones, region sources or suites."""


@listing.command()
@options.as_json
def methods(as_json: bool) -> None:
    """List all methods with their papers."""
    from ovbench.config.method_files import method_heading
    from ovbench.utils.registry import METHODS

    rows, broken = [], METHODS.broken()
    for name, target in METHODS.entries().items():
        heading = method_heading(name)
        row = {"method": name, "title": heading.get("title", ""), "paper": heading.get("paper", target)}
        rows.append(row | {"broken": broken.get(name)})
    _print(rows, as_json)


@listing.command()
@click.option("--group", metavar="NAME", shell_complete=options.complete_groups, help="The benchmarks of a group.")
@options.data_root
@options.as_json
def datasets(group: str | None, data_root: Path | None, as_json: bool) -> None:
    """List all benchmarks and their state on this machine, each group in one row.

    `--json` lists all benchmarks of all groups.
    """
    from ovbench.data.availability import dataset_rows, group_rows
    from ovbench.data.shipped_cards import card_groups, list_cards
    from ovbench.data.user_config import user_cards
    from ovbench.utils.errors import unknown

    if group is not None and group not in card_groups():
        raise unknown("group", group, card_groups(), where="--group")
    names = card_groups()[group] if group else None if as_json else [*list_cards(), *user_cards()]
    rows = dataset_rows(data_root, names)
    if not as_json:  # a terminal is too narrow for all columns
        rows += [] if group else group_rows(data_root)
        rows = [{key: row[key] for key in ("name", "classes", "images", "state", "root", "broken")} for row in rows]
    _print(rows, as_json)


@listing.command()
@options.as_json
def backbones(as_json: bool) -> None:
    """List all backbones with their short names for --weights."""
    from ovbench.utils.registry import BACKBONES

    broken, rows = BACKBONES.broken(), []
    for name in BACKBONES.names():
        backbone = None if name in broken else BACKBONES.load(name)
        row = {"backbone": name, "what": "", "names": "", "broken": broken.get(name)}
        if backbone is not None:
            row |= {"what": backbone.title, "names": ", ".join(backbone.names())}
        rows.append(row)
    _print(rows, as_json)


@listing.command()
@options.as_json
def regions(as_json: bool) -> None:
    """List all region sources and the files that this machine does not have."""
    from ovbench.methods.method_errors import blamed
    from ovbench.utils.errors import OvbenchError
    from ovbench.utils.registry import REGIONS

    rows = []
    for name in REGIONS.names():
        try:
            with blamed(REGIONS.load(name)) as source:
                row = {"regions": name, "missing": "; ".join(source().missing()), "broken": None}
        except OvbenchError as error:
            row = {"regions": name, "missing": "", "broken": str(error)}
        rows.append(row)
    _print(rows, as_json)


@listing.command()
@options.as_json
def suites(as_json: bool) -> None:
    """List all suites with their titles."""
    from ovbench.config.suites import suite_heading, suite_names

    headings = {name: suite_heading(name) for name in suite_names()}
    _print([{"suite": name, "title": title, "source": source} for name, (title, source) in headings.items()], as_json)


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    from rich.table import Table

    from ovbench.results.console import show

    table = Table()
    for column in rows[0] if rows else ():
        if column != "broken":
            table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for key, value in row.items() if key != "broken"))
    show(table)
    for row in rows:
        if row.get("broken"):
            say(f"broken: {row['broken']}")
