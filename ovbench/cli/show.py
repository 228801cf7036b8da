"""``ovbench show``."""

from __future__ import annotations

import json
from typing import Any

import click

from ovbench.cli import options, say


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
    """Print the settings of METHOD on DATASET, where each comes from, the published figures, and what is missing.

    The column "published" compares each setting with the nearest published run: "same", the other value, or "not
    stated" by the official code. It is empty if there is no official setting. Each published figure comes with the
    settings that it was measured with.

    \b
    ovbench show corrclip ade150
    ovbench show sclip voc21 --protocol common
    """
    from ovbench.config.load import override_pairs
    from ovbench.data.card import load_card
    from ovbench.results.explain import explain

    name = load_card(dataset).name
    found = explain(method, name, override_pairs(settings, "--set"), override_pairs(weights, "--weights"), protocol)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    from ovbench.config.setting_changes import setting_text
    from ovbench.results import console

    title = f"{found['method']} on {found['dataset']}, {found['protocol']} protocol"
    settings = Table(title=title, title_justify="left")
    for name in ("setting", "value", "published", "from"):
        settings.add_column(name, overflow="fold")
    for row in found["settings"]:
        name = f"{row['table']}.{row['setting']}"
        settings.add_row(name, setting_text(row["value"]), row["published"], row["from"])
    sources = sorted({row["source"] for row in found["settings"] if row["source"]})
    figures = Table(title="published mIoU in percent", title_justify="left")
    for name in ("mIoU", "variant", "postprocess", "reported by", "settings"):
        figures.add_column(name, overflow="fold")
    for row in found["published"]:
        figures.add_row(row["value"], row["variant"], row["postprocess"], row["reported_by"], row["settings"])
    console.show(settings)
    for source in sources:
        say(f"source: {source}")
    if found["deviations"]:
        click.echo(found["deviations"])
    for name in found["missing"]:
        say(f"missing: {name}")
    if found["published"]:
        console.show(figures)
    else:
        say("no published figure for this pair")
