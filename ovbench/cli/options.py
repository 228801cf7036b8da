"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ovbench.layers import PROTOCOLS


def combine(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _completer(names: Callable[[], list[str]]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """What a shell offers for a word begun; ``names`` must not need torch."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _methods() -> list[str]:
    from ovbench.registry import METHODS

    return METHODS.names()


def _datasets() -> list[str]:
    from ovbench.data.card import list_cards

    return list_cards()


def _suites() -> list[str]:
    from ovbench.suites import suite_names

    return suite_names()


def _layouts() -> list[str]:
    from ovbench.results.layouts import layout_names

    return layout_names()


complete_methods, complete_datasets = _completer(_methods), _completer(_datasets)
complete_suites, complete_layouts = _completer(_suites), _completer(_layouts)

settings = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="A method parameter or protocol setting, for example --set tau=0.2 --set crop=224. Repeatable.",
)  # fmt: skip
weights = click.option(
    "--weights", multiple=True, metavar="BACKBONE=MODEL",
    help="Another backbone, for example --weights clip=ViT-L-14-quickgelu/metaclip_fullcc. Repeatable.",
)  # fmt: skip
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
data_root = click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder that holds the benchmarks. [env: OVBENCH_DATA]"
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
protocol = click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="paper", show_default=True,
    help="The method's published settings, or one set of windows, prompts and names for all methods.",
)  # fmt: skip
