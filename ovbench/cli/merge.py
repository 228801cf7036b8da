"""``ovbench merge``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options, say


@click.command()
@click.argument("folders", nargs=-1, required=True, type=options.Folder(), metavar="RUN_FOLDER...")
@click.option("--out", type=options.OutFolder(), required=True, help="Folder or URL of the ledger and the record.")
@options.mixed_devices
@options.as_json
def merge(folders: tuple[Path, ...], out: Path, mixed_devices: bool, as_json: bool) -> int:
    """Merge the shards of a cell, the RUN_FOLDERs of `ovbench eval --shard K/N`, into one ledger and one record.

    The record equals the record of an unsharded run, except its time. Missing, duplicate and unfinished shards are
    refused, and shards of different runs.

    \b
    ovbench eval -m corrclip -d mini --shard 1/2 --out a
    ovbench eval -m corrclip -d mini --shard 2/2 --out b
    ovbench merge a/corrclip-mini-*/ b/corrclip-mini-*/ --out merged
    """
    from ovbench.evaluation.merge import merge as merge_folders
    from ovbench.results.console import class_table, show

    record, path = merge_folders(folders, out, mixed_devices=mixed_devices)
    if as_json:
        click.echo(json.dumps(record, indent=1))
    else:
        show(class_table(record))
    say(f"record: {path}", err=True)
    return 4 if record["failed"] else 0
