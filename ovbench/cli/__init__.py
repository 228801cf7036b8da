"""The command line; the module of a command is imported when it is used, which keeps ``--help`` fast."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ovbench.utils.text import printable

# command: (module:object, one line of help)
COMMANDS = {
    "eval": ("ovbench.cli.eval:evaluate", "Evaluate methods on benchmarks: mIoU tables and result records."),
    "score": ("ovbench.cli.score:score", "Score label maps of any program: the same record as eval."),
    "segment": ("ovbench.cli.segment:segment", "Label images with your own classes."),
    "list": ("ovbench.cli.list:listing", "List methods, datasets, region sources or suites."),
    "show": ("ovbench.cli.show:show", "Show a method's settings on a benchmark, their sources, and published figures."),
    "data": ("ovbench.cli.data:data", "Prepare, verify and subset benchmarks on disk."),
    "train": ("ovbench.cli.train:train", "Train the weights of a method: psi of Talk2DINO."),
    "masks": ("ovbench.cli.masks:masks", "Build the region maps of a benchmark in the cache."),
    "reference": ("ovbench.cli.reference:reference", "Build and check the reference sets of ReME."),
    "bank": ("ovbench.cli.bank:bank", "Build and check the banks of regions of CorrCLIPv2."),
    "describe": ("ovbench.cli.describe:describe", "Write descriptions of a benchmark's classes with a language model."),
    "weights": ("ovbench.cli.weights:weights", "List and fetch published weights."),
    "cache": ("ovbench.cli.cache:cache", "List, verify and remove files of the cache."),
    "sweep": ("ovbench.cli.sweep:sweep", "Evaluate many cells with workers on one machine or a cluster."),
    "merge": ("ovbench.cli.merge:merge", "Merge the shards of a run into one ledger and one record."),
    "table": ("ovbench.cli.table:table", "Print tables of papers: published beside measured values."),
    "plot": ("ovbench.cli.plot:plot", "Draw records: classes, methods by benchmarks, cost, ablations."),
    "report": ("ovbench.cli.report:report", "Write an offline HTML page about runs: classes, confusions, images."),
    "leaderboard": ("ovbench.cli.leaderboard:leaderboard", "Write a static site: published and measured figures."),
    "check-record": ("ovbench.cli.check_record:check_record", "Check records that are handed in for the leaderboard."),
    "runs": ("ovbench.cli.runs:runs", "List, pack and remove runs by short ids."),
    "rerun": ("ovbench.cli.rerun:rerun", "Repeat the run of a record exactly, or say what differs."),
    "compare": ("ovbench.cli.compare:compare", "Compare two records: what changed, and whether it is significant."),
    "power": ("ovbench.cli.power:power", "Say how many images show a difference, and which subset does."),
    "gate": ("ovbench.cli.gate:gate", "Fail if a method is worse than its baseline on the same images."),
    "doctor": ("ovbench.cli.doctor:doctor", "Check this machine: versions, devices, data, weights; with fixes."),
    "check": ("ovbench.cli.check:check", "Check that a method follows the rules of the engine."),
    "parity": ("ovbench.cli.parity:parity", "Check methods against recorded official outputs, stage by stage."),
}


class ClosedPipe(Exception):
    """The reader of stdout has closed the pipe, as ``| head`` does; click itself would exit with code 1."""


@contextmanager
def _closed_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ClosedPipe from error


def say(text: object, *, err: bool = False) -> None:
    """Print a line whose control characters are escaped; names of files and classes may have some.

    Args:
        text: The line.
        err: Whether to print to stderr.
    """
    click.echo(printable(str(text)), err=err)


class LazyGroup(click.Group):
    """A group that imports a command only to run it or to print its help."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        """Parse the command line, which prints ``--help``."""
        with _closed_pipe():  # --help is printed here
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _closed_pipe():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return [*COMMANDS]  # importing ovbench.cli.list put another "list" into this module

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        """Find the command of the arguments, with a close match in the error."""
        if args and args[0] not in COMMANDS:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f' Did you mean "{close[0]}"?' if close else ""
            ctx.fail(f'No such command "{args[0]}".{hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from ovbench.utils.version import package_version  # asks git in a checkout

        click.echo(f"ovbench, version {package_version()}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "OVBENCH"})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]),
    help="Messages to stderr from this level on; also of libraries. [default: warning]",
)  # fmt: skip
def cli(log_level: str | None) -> None:
    """Evaluate open-vocabulary semantic segmentation: every method, every benchmark, one evaluator.

    \b
    ovbench eval --method corrclip --dataset mini             the first run; needs no download
    ovbench segment photo.jpg -c dog -c grass                 label an image with your own words
    """
    if log_level is not None:
        import logging  # only here, because --help needs none

        logging.basicConfig(format="%(message)s", level=log_level.upper())
