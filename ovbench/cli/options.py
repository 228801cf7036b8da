"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ovbench.config import PROTOCOLS


def _completer(names: Callable[[], list[str]]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return a shell completion over ``names``, which must not import torch."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _methods() -> list[str]:
    from ovbench.utils.registry import METHODS

    return METHODS.names()


def _datasets() -> list[str]:
    from ovbench.data.shipped_cards import card_groups, known_cards
    from ovbench.data.user_config import user_cards

    return [*known_cards(), *user_cards(), *card_groups()]


def _groups() -> list[str]:
    from ovbench.data.shipped_cards import card_groups

    return list(card_groups())


def _suites() -> list[str]:
    from ovbench.config.suites import suite_names

    return suite_names()


def _layouts() -> list[str]:
    from ovbench.results.layouts import layout_names

    return layout_names()


complete_methods, complete_datasets = _completer(_methods), _completer(_datasets)
complete_groups = _completer(_groups)
complete_suites, complete_layouts = _completer(_suites), _completer(_layouts)


class RecordPath(click.ParamType):
    """A record or bundle as a path, or by its short id in the folder ``runs`` or in the folder before the id."""

    name = "record"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; one that does not exist is returned too if it cannot be an id."""
        path = Path(value)
        folder = path.parent if path.parent != Path() else Path(RUNS)
        if path.exists() or path.suffix or not folder.is_dir():
            return path
        from ovbench.results.bundle import find_by_id

        return find_by_id(path.name, [folder])


RUNS = "runs"  # default folder of the records
RECORD = RecordPath()


def methods(text: str) -> Callable[[click.Command], click.Command]:
    """Return the option ``--method`` with a help text."""
    return click.option(
        "--method", "-m", "methods", multiple=True, metavar="NAME", shell_complete=complete_methods, help=text
    )


def datasets(text: str, metavar: str = "NAME") -> Callable[[click.Command], click.Command]:
    """Return the option ``--dataset`` with a help text."""
    return click.option(
        "--dataset", "-d", "datasets", multiple=True, metavar=metavar, shell_complete=complete_datasets, help=text
    )


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.meta[f"ovbench.{param.name}"] = value


def _with_shorts(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Add ``--refine X`` and ``--corrupt X`` as ``--set refine=X`` in front, so that ``--set`` wins."""
    short = (f"{name}={given}" for name in ("refine", "corrupt") if (given := ctx.meta.get(f"ovbench.{name}")))
    return (*short, *value)


settings = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", callback=_with_shorts,
    help="A method parameter or protocol setting, for example --set tau=0.2 --set crop=224. Repeatable.",
)  # fmt: skip
weights = click.option(
    "--weights", multiple=True, metavar="BACKBONE=MODEL",
    help="Another backbone, for example --weights clip=ViT-L-14-quickgelu/metaclip_fullcc. Repeatable.",
)  # fmt: skip
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
data_root = click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder of the benchmarks. [env: OVBENCH_DATA]"
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
protocol = click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="paper", show_default=True,
    help="paper: the published settings of the method; common: the same windows, prompts and names for all methods.",
)  # fmt: skip


refine = click.option(
    "--refine", type=click.Choice(["pamr", "pamr-windows"]), callback=_remember, expose_value=False,
    is_eager=True,
    help="Refine scores with PAMR, on the whole image or in each window; short for --set refine=...",
)  # fmt: skip


def _corruptions() -> list[str]:
    from ovbench.config.corruptions import CORRUPTIONS

    return list(CORRUPTIONS)


corrupt = click.option(
    "--corrupt", metavar="NAME:SEVERITY", callback=_remember, expose_value=False, is_eager=True,
    shell_complete=_completer(_corruptions),
    help="Corrupt the images as ImageNet-C does, for example fog:3; severities are 1 to 5. Short for --set "
    "corrupt=...",
)  # fmt: skip
