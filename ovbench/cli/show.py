"""``ovbench show``."""

from __future__ import annotations

import json
from typing import Any

import click

from ovbench.cli import options


@click.command()
@click.argument("method", shell_complete=options.complete_methods)
@click.argument("dataset", shell_complete=options.complete_datasets)
@options.settings
@options.refine
@options.weights
@options.protocol
@options.as_json
def show(
    method: str, dataset: str, settings: tuple[str, ...], weights: tuple[str, ...], protocol: str, as_json: bool
) -> None:
    """Print the settings of METHOD on DATASET, where each comes from, and the published figures.

    \b
    ovbench show corrclip ade150
    ovbench show sclip voc21 --protocol common
    """
    from ovbench.config import override_pairs
    from ovbench.data.card import load_card
    from ovbench.explain import explain

    name = load_card(dataset).name
    found = explain(
        method, name, override_pairs(settings, "--set"), override_pairs(weights, "--weights"), protocol
    )
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    from ovbench.results import console

    title = f"{found['method']} on {found['dataset']}, {found['protocol']} protocol"
    settings = Table(title=title, title_justify="left")
    for name in ("setting", "value", "from"):
        settings.add_column(name, overflow="fold")
    for row in found["settings"]:
        settings.add_row(f"{row['table']}.{row['setting']}", str(row["value"]), row["from"])
    sources = sorted({row["source"] for row in found["settings"] if row["source"]})
    figures = Table(title="published mIoU in percent", title_justify="left")
    for name in ("mIoU", "variant", "postprocess", "reported by"):
        figures.add_column(name, overflow="fold")
    for row in found["published"]:
        figures.add_row(row["value"], row["variant"], row["postprocess"], row["reported_by"])
    console.show(settings)
    for source in sources:
        click.echo(f"source: {source}")
    if found["published"]:
        console.show(figures)
    else:
        click.echo("no published figure for this pair")
