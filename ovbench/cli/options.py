"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ovbench.cli import say
from ovbench.config import PROTOCOLS


class Folder(click.ParamType):
    """A folder of this machine, or a URL."""

    name = "DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path, see `ovbench.utils.folders.reached_folder`."""
        from ovbench.utils.folders import reached_folder

        return reached_folder(value) if isinstance(value, str) else value


class OutFolder(Folder):
    """A folder to write into, which may not exist yet; a file in its place ends the command before anything is read."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path, see `Folder`."""
        path = super().convert(value, param, ctx)
        local = (path, *path.parents) if isinstance(path, Path) else ()
        if file := next(filter(os.path.isfile, local), None):
            self.fail(f'"{file}" is a file, not a folder', param, ctx)
        return path


class ImageFolder(click.Path):
    """A folder of images that exists, or "mini" for the training images of `mini`."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return "mini" as it is, otherwise a path; other values end the command before torch is loaded."""
        return value if value == MINI else super().convert(value, param, ctx)


MINI = "mini"
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


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


def _metrics() -> list[str]:
    from ovbench.metrics.named import METRICS

    return [*METRICS]


complete_metrics = _completer(_metrics)
complete_methods, complete_datasets = _completer(_methods), _completer(_datasets)
complete_groups = _completer(_groups)
complete_suites, complete_layouts = _completer(_suites), _completer(_layouts)


class RecordPath(click.ParamType):
    """A record as a path or URL, a bundle, or a short id in the folder ``runs`` or in the folder before the id."""

    name = "record"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; one that does not exist is returned too if it cannot be an id."""
        from ovbench.utils.folders import reached_folder

        path = reached_folder(value)
        folder = path.parent if path.parent != Path() else Path(RUNS)
        may_be_id = path.parent == Path() or re.search(r"(^|-)[0-9a-f]{4,8}\b", path.name)
        if path.exists() or path.suffix or not folder.is_dir() or not may_be_id:
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


def metric(text: str) -> Callable[[click.Command], click.Command]:
    """Return the option ``--metric`` with a help text; the value is the name, which the command checks."""
    return click.option("--metric", metavar="NAME", shell_complete=complete_metrics, help=text)


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
device = click.option(
    "--device", default="auto", show_default=True,
    help="cpu, cuda, cuda:N, or another device of torch; auto is a GPU of CUDA or the CPU.",
)  # fmt: skip
data_root = click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder or URL of the benchmarks. [env: OVBENCH_DATA]"
)
similarity = click.option(
    "--similarity", metavar="NAME|FILE|text:TOWER",
    help="Similarity of the classes, for Open_mIoU and SG_IoU: a shipped one, a .csv or .toml file, or text:TOWER for "
    "the cosines of the names in a CLIP.",
)  # fmt: skip
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
mixed_devices = click.option(
    "--mixed-devices", is_flag=True,
    help="Accept counts from several models of one type of device; the record lists them.",
)  # fmt: skip
protocol = click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="paper", show_default=True,
    help="paper: the published settings of the method; common: the same windows, prompts and names for all methods.",
)  # fmt: skip


refine = click.option(
    "--refine", type=click.Choice(["pamr", "pamr-windows", "tlp"]), callback=_remember, expose_value=False,
    is_eager=True,
    help="Refine scores with PAMR, on the whole image or in each window, or with PEARL's propagation; short for --set "
    "refine=...",
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


def shard(more: str) -> Callable[[click.Command], click.Command]:
    """Return the option ``--shard``."""
    text = f"Only every N-th image, starting with the K-th; {more}. auto: K and N of the task of Slurm, a Kubernetes "
    return click.option("--shard", metavar="K/N|auto", help=text + "Indexed Job or mpirun.")


def resolve_shard(text: str | None) -> str | None:
    """Return "K/N" for "auto", and print where it was found.

    Raises:
        UsageError: If no scheduler has numbered this task.
    """
    if text != "auto":
        return text
    from ovbench.evaluation.distributed import shard_of_environment

    found = shard_of_environment()
    say(f"shard {found.shard.number}/{found.shard.of}: {found.variables}", err=True)
    return f"{found.shard.number}/{found.shard.of}"


_REQUEST = (
    methods("Method. Repeatable."),
    datasets("Benchmark, or your own card. Repeatable.", metavar="NAME|CARD.toml"),
    click.option(
        "--suite", metavar="NAME|FILE.toml", shell_complete=complete_suites,
        help="Evaluate the rows of a suite, such as a paper's table; --dataset replaces its benchmarks.",
    ),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N images."),
    click.option(
        "--subset", type=click.Path(path_type=Path), metavar="FILE", help="Only the images of a subset manifest."
    ),
    click.option(
        "--classes", type=click.Path(path_type=Path), metavar="FILE",
        help="Other class names, one line per class; after a line [distractors], names that no label has.",
    ),
    protocol,
    click.option(
        "--like", metavar="NAME", shell_complete=complete_datasets,
        help="Benchmark whose settings your own datasets get, such as voc21. [default: that of the card, or general "
        "ones]",
    ),
    settings,
    refine,
    corrupt,
    weights,
    device,
    click.option(
        "--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp32", show_default=True,
        help="Precision of the backbones' blocks. All else runs in fp32; TF32 is never used.",
    ),
    click.option(
        "--compile", "compiled", is_flag=True, 
        help="Compile the backbones' blocks, and on a GPU the decision among many classes, once for all image sizes.",
    ),
    click.option(
        "--batch", type=click.IntRange(min=0), metavar="N",
        help="Number of windows per batch, a multiple of 8; a batch may have windows of several images. 0: one image "
        "per batch. [default: 32 on a GPU, 0 on the CPU]",
    ),
    data_root,
    click.option(
        "--label-rule", type=click.Choice(["correct", "official"]),
        help="How void pixels of 16-bit labels are counted: correctly, or as in the published code. [default: official "
        "on pc459 and ade847 with --protocol paper, as in the published figures; otherwise correct]",
    ),
    click.option(
        "--out", type=OutFolder(), default="runs", show_default=True,
        help="Folder of the records: a path, or a URL such as s3://bucket/runs.",
    ),
    mixed_devices,
    click.option(
        "--metrics", default="", metavar="NAME,...",
        help="Also count boundary (Boundary IoU), size (IoU by segment size) or calibration (ECE); see "
        "docs/metrics.md.",
    ),
)  # fmt: skip


def request(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a request, see `ovbench.evaluation.request.Job`."""
    for option in reversed(_REQUEST):
        command = option(command)
    return command
