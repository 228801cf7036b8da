"""``ovbench runs``: list, pack and remove results by short ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from ovbench.cli import options, say
from ovbench.utils.text import size_text

FOLDER = click.option(
    "--runs", "folder", type=options.Folder(), default=Path(options.RUNS), show_default=True,
    help="Folder of the records.",
)  # fmt: skip


@click.group(name="runs")
def runs() -> None:
    """List, pack and remove runs. Every command that takes a record also takes its short id."""


@runs.command("list")
@FOLDER
@options.methods("Only this method. Repeatable.")
@options.datasets("Only this dataset. Repeatable.")
@click.option("--partial", is_flag=True, help="Only runs that cover a part of their benchmark.")
@options.as_json
def list_command(
    folder: Path, methods: tuple[str, ...], datasets: tuple[str, ...], partial: bool, as_json: bool
) -> None:  # fmt: skip
    """List the runs of a folder with their short ids, the newest first.

    \b
    ovbench runs list
    ovbench runs list -m corrclip --partial
    """
    from ovbench.results.run_list import run_rows

    rows = run_rows(folder, methods, datasets, partial=partial)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    from rich.table import Table

    from ovbench.results.console import show

    table = Table()
    for column in ("id", "method", "dataset", "images", "mIoU", "counted", "what differs"):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "counted"))
    for row in rows:
        miou = "" if row["mIoU"] is None else f"{100 * row['mIoU']:.2f}"
        images = f"{row['images']}" + (f" of {row['split_images']}" if row["partial"] else "")
        counted = row["started"][:10]
        table.add_row(row["id"], row["method"], row["dataset"], images, miou, counted, row["differs"])
    show(table)


@runs.command("pack")
@click.argument("records", nargs=-1, required=True, type=options.RECORD, metavar="RECORD|ID...")
@click.option(
    "--out", type=options.Folder(), metavar="FILE|FOLDER|URL",
    help="Where to write NAME.ovb.zip. [default: beside the record]",
)  # fmt: skip
@options.as_json
def pack_command(records: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write each record with its counts into one file, which every command reads like a record.

    \b
    ovbench runs pack runs/*.json
    """
    from ovbench.evaluation.record import is_bundle
    from ovbench.results.bundle import write_bundle

    if out is not None and is_bundle(out) and len(records) > 1:
        raise click.UsageError("--out is one file, but several records are given; give a folder.")
    written = [write_bundle(path, out) for path in records]
    if as_json:
        click.echo(json.dumps([{"file": str(path), "bytes": path.stat().st_size} for path in written], indent=1))
        return
    for path in written:
        say(f"{path}: {size_text(path.stat().st_size)}")


@runs.command("rm")
@click.argument("records", nargs=-1, required=True, type=options.RECORD, metavar="RECORD|ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove_command(records: tuple[Path, ...], yes: bool) -> None:
    """Remove records with their ledgers. A ledger that another record needs is kept.

    \b
    ovbench runs rm 5e6f7a8b --yes
    """
    from ovbench.results.bundle import files_of

    chosen = [files_of(path) for path in dict.fromkeys(records)]
    for one in chosen:
        say(f"{one.record}" + (f" and its ledger {one.ledger}" if one.ledger else ""), err=True)
    if not yes:
        click.confirm(f"Remove {len(chosen)} runs?", abort=True, err=True)
    for one in chosen:
        one.record.unlink()
        if one.ledger is not None:
            shutil.rmtree(one.ledger)
    say(f"removed {len(chosen)} runs")
