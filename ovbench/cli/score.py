"""``ovbench score``."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import click

from ovbench.cli import options, say


@click.command()
@click.option(
    "--dataset", "-d", required=True, metavar="NAME|CARD.toml", shell_complete=options.complete_datasets,
    help="Benchmark, or your own card.",
)  # fmt: skip
@click.option(
    "--predictions", required=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="Label maps, named by image ids: PNG, TIFF, npz, npy, COCO JSON, or sem_seg_predictions.json of detectron2.",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="Name of the method in tables. [default: from the folder]")
@click.option(
    "--encoding", metavar="NAME",
    help="Values of the maps: index (class indices from 0), or an encoding of the card, such as ids of cityscapes and "
    "raw of ade150. [default: decided by the values, if they leave no doubt]",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N images.")
@click.option("--subset", type=click.Path(path_type=Path), metavar="FILE", help="Only the images of a subset manifest.")
@options.data_root
@click.option(
    "--label-rule", type=click.Choice(["correct", "official"]),
    help="How void pixels of 16-bit labels are counted; the default is the same as in `ovbench eval`.",
)  # fmt: skip
@click.option("--out", type=options.OutFolder(), default=Path("runs"), show_default=True, help="Folder of the records.")
@click.option("--fresh", is_flag=True, help="Start again instead of resuming an earlier run.")
@options.as_json
def score(
    dataset: str, predictions: Path, name: str | None, encoding: str | None, as_json: bool, **arguments: Any
) -> int:  # fmt: skip
    """Score label maps of any program with the evaluator of `ovbench eval`, and write a record.

    \b
    ovbench score --dataset ade150 --predictions results/ade --name my-method
    ovbench score -d cityscapes --predictions submission/ --encoding ids
    """
    from ovbench.data.card import load_card
    from ovbench.evaluation.request import Job
    from ovbench.utils.errors import InputError

    card = load_card(dataset)
    if not predictions.is_dir():
        raise InputError(f'no folder "{predictions}"', where="--predictions", fix="check the path")
    job = Job(datasets=(dataset,), device="cpu", **arguments)
    from ovbench.evaluation.score import score
    from ovbench.results.console import class_table, show, summary_table

    found = score(job, predictions, card, name=name, encoding=encoding, say=functools.partial(say, err=True))
    record, path = found.result
    for image, reason in record["failed"].items():
        say(f"failed: {image}: {reason}", err=True)
    say(f"record: {path}", err=True)
    if as_json:
        click.echo(json.dumps(record, indent=1))
    else:
        show(class_table(record), summary_table([record]))
    return 4 if record["failed"] else 0
