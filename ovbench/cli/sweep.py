"""``ovbench sweep``."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ovbench.cli import options, say
from ovbench.utils.files import parse_json

if TYPE_CHECKING:
    from ovbench.cluster.progress import Progress, SweepView
    from ovbench.cluster.sweep import Sweep

FOLDER = click.argument("folder", type=options.Folder(), metavar="FOLDER", default="runs")


@click.group(name="sweep", short_help="Evaluate many cells with workers on one machine or a cluster.")
def sweep() -> None:
    """Evaluate many cells with workers on one machine or a cluster.

    \b
    ovbench sweep plan -m clip -m maskclip -d mini --limit 4 --out runs
    ovbench sweep start runs --on local
    ovbench sweep watch runs

    FOLDER is the --out of the plan: a path that all machines see, or a URL such as s3://bucket/runs.
    """


@sweep.command()
@options.request
@click.option(
    "--minutes", type=click.FloatRange(min=0.0, min_open=True), default=5.0, show_default=True, metavar="M",
    help="Length of a task.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N",
    help="Number of workers that will start: tasks become so short that all workers end together.",
)  # fmt: skip
@click.option(
    "--build", "builds", multiple=True, metavar="COMMAND",
    help='Build a reference set or bank first, for example --build "reference build --images DIR --captions FILE --out '
    'REF". Repeatable.',
)  # fmt: skip
@click.option(
    "--build-shards", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
    help="Number of tasks of each --build.",
)  # fmt: skip
@options.as_json
def plan(
    minutes: float, workers: int | None, builds: tuple[str, ...], build_shards: int, as_json: bool, **arguments: Any
) -> int:
    """Divide cells into tasks of a few minutes, and write the plan into the folder --out.

    Images that have counts in the folder are not counted again. The options are those of `ovbench eval`.
    """
    from ovbench.cluster.build_tasks import build_commands
    from ovbench.cluster.make_plan import plan_sweep
    from ovbench.cluster.sweep import write_sweep
    from ovbench.evaluation.request import Job

    job = Job(**arguments)
    made = plan_sweep(job, minutes, workers, [build_commands(text, build_shards) for text in builds])
    write_sweep(job.out, made)
    if as_json:
        click.echo(json.dumps(made.model_dump(mode="json"), indent=1))
        return 0
    _print_plan(made)
    say(f"plan: {len(made.tasks)} tasks; next: ovbench sweep start {quote(str(job.out))} --on local", err=True)
    return 0


def _print_plan(made: Sweep) -> None:
    from ovbench.results.console import plain_table, show

    tasks = Counter(task.group for task in made.tasks if task.kind == "count")
    group_of = {number: group for group, numbers in enumerate(made.groups) for number in numbers}
    rows = [
        (cell.label, cell.method, cell.dataset, str(cell.images), str(tasks[group_of[number]]),
         f"{cell.images * cell.seconds_per_image / 3600:.2f} ({'measured' if cell.measured else 'guess'})")
        for number, cell in enumerate(made.cells)
    ]  # fmt: skip
    show(plain_table(("row", "method", "dataset", "images", "tasks", "hours"), rows))


@sweep.command()
@FOLDER
@click.option(
    "--on", "engine", type=click.Choice(["local", "slurm", "ray", "print"]), default="local", show_default=True,
    help="local: this machine; slurm: a job array, with submitit; ray: a Ray cluster; print: the command of a worker.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Number of workers. [default: one per GPU]")
@click.option(
    "--option", "extra", multiple=True, metavar="KEY=VALUE",
    help="An option of the engine, for example --option partition=gpu --option gpus_per_node=1. Repeatable.",
)  # fmt: skip
def start(folder: Path, engine: str, workers: int | None, extra: tuple[str, ...]) -> int:
    """Start workers for the plan in FOLDER; with local and ray, wait for them and show the result.

    \b
    ovbench sweep start runs --on local --workers 2
    ovbench sweep start runs --on slurm --workers 16 --option partition=gpu --option gpus_per_node=1
    ovbench sweep start runs --on ray --option address=auto --option num_gpus=1
    """
    from ovbench.cluster.launch import LAUNCHERS
    from ovbench.cluster.progress import SweepView
    from ovbench.config.load import override_pairs
    from ovbench.utils.folders import is_remote
    from ovbench.utils.paths import real_path

    folder = folder if is_remote(folder) else real_path(folder)
    view = SweepView(folder)
    values = {key: _value(text) for key, text in override_pairs(extra, "--option").items()}
    started = LAUNCHERS.load(engine)(folder, workers, values)
    for line in started.lines:
        say(line)
    if not started.waited:
        return 0
    progress = view.progress()
    _show(view, progress)
    if started.failed and not progress.finished:
        say(f"failed: {started.failed} workers ended with an error; start workers again to go on", err=True)
        return 4
    return progress.exit_code


def _value(text: str) -> Any:
    """Return a number for a text that is one."""
    try:
        return parse_json(text)
    except ValueError:
        return text


@sweep.command()
@FOLDER
@click.option(
    "--stale", "stale_s", type=click.FloatRange(min=1.0), default=60.0, show_default=True, metavar="SECONDS",
    help="Take over the task of a worker that gives no sign of life for this time; the same for all workers.",
)  # fmt: skip
def work(folder: Path, stale_s: float) -> int:
    """Do tasks of the plan in FOLDER until none is left. Start it any number of times, on any machine."""
    from ovbench.cluster.worker import work as do_tasks

    result = do_tasks(folder, functools.partial(say, err=True), stale_s)
    for image, reason in result.failed.items():
        say(f"failed: {image}: {reason}", err=True)
    return 4 if result.errors or result.failed else 0


@sweep.command()
@FOLDER
@click.option("--once", is_flag=True, help="Show the present state and end.")
@click.option(
    "--every", type=click.FloatRange(min=1.0), default=10.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@options.as_json
def watch(folder: Path, once: bool, every: float, as_json: bool) -> int:
    """Show what is done, running and failed, images per second, the remaining time, and mIoU so far.

    The exit code is that of the whole: 0, or 4 if a task or an image failed.
    """
    from ovbench.cluster.progress import SweepView

    view = SweepView(folder)
    while not (progress := view.progress()).finished and not once:
        say(_line(progress), err=True)
        time.sleep(every)
    if as_json:
        click.echo(json.dumps(progress.as_dict(), indent=1))
    else:
        _show(view, progress)
    return progress.exit_code


def _line(progress: Progress) -> str:
    """Return the state in one line."""
    done, wanted = sum(cell.done for cell in progress.cells), sum(cell.images for cell in progress.cells)
    tasks = ", ".join(f"{count} {status}" for status, count in sorted(progress.tasks.items()))
    speed = f", {progress.rate:.1f} images/s" if progress.rate else ""
    eta = f", {progress.eta_s / 60:.0f} minutes left" if progress.eta_s else ""
    quiet = [beat["name"] for beat in progress.workers if beat["silent_s"] > 60]
    silent = f"; no sign of life from {', '.join(quiet)}" if quiet else ""
    none = "; no worker is running" if not progress.workers and not progress.finished else ""
    return f"{done} of {wanted} images, tasks: {tasks}, {len(progress.workers)} workers{speed}{eta}{silent}{none}"


def _show(view: SweepView, progress: Progress) -> None:
    from ovbench.results.console import plain_table, show

    rows = [
        (cell.label, cell.method, cell.dataset, f"{cell.done} of {cell.images}", str(cell.failed),
         "" if cell.miou is None else f"{100 * cell.miou:.2f}")
        for cell in progress.cells
    ]  # fmt: skip
    show(plain_table(("row", "method", "dataset", "images", "failed", "mIoU so far"), rows))
    for task, reason in progress.errors.items():
        what = view.sweep.tasks[task]
        say(f"failed: task {task} ({what.kind}): {reason}", err=True)
    say(_line(progress), err=True)
