"""``ovbench check``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options


@click.command()
@click.argument("method", metavar="METHOD|FILE.py:Class", shell_complete=options.complete_methods)
@click.option(
    "--dataset", "-d", default="mini", show_default=True, metavar="NAME", shell_complete=options.complete_datasets,
    help="Benchmark with the images and settings for the check; mini needs no download.",
)  # fmt: skip
@options.settings
@options.weights
@options.device
@options.data_root
@options.as_json
def check(
    method: str, dataset: str, settings: tuple[str, ...], weights: tuple[str, ...], device: str,
    data_root: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Check that METHOD follows the rules of the engine. Exit code 1 if a check fails.

    Labels must have the right shape and range at every image size, be equal in every run, and not depend on other
    images or windows. The method must not open files of the benchmark.

    \b
    ovbench check corrclip
    ovbench check path/to/my_method.py:MyMethod
    """
    from ovbench.config.load import override_pairs, resolve
    from ovbench.data.card import load_card

    overrides, backbones = override_pairs(settings, "--set"), override_pairs(weights, "--weights")
    resolve(method, load_card(dataset).name, overrides, backbones)  # a mistake is answered before torch is imported
    from ovbench.evaluation.conformance import check_method
    from ovbench.utils.provenance import choose_device

    results = check_method(
        method, dataset, settings=overrides, weights=backbones, data_root=data_root, device=choose_device(device)
    )
    if as_json:
        click.echo(json.dumps([result._asdict() for result in results], indent=1))
    else:
        from rich.table import Table

        from ovbench.results.console import show

        table = Table(title=f"{method} on {dataset}", title_justify="left")
        for name in ("check", "result", "detail"):
            table.add_column(name, overflow="fold")
        for result in results:
            table.add_row(*result)
        show(table)
    return 1 if any(result.verdict == "fail" for result in results) else 0
