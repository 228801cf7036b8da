"""``ovbench train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ovbench.cli import options, say


@click.group(name="train", short_help="Train the weights of a method.")
def train() -> None:
    """Train the weights of a method on your own data."""


@train.command("talk2dino")
@click.option(
    "--images", type=options.FOLDER, required=True, metavar="DIR",
    help="Folder of the images; captions name them relative to it.",
)  # fmt: skip
@click.option(
    "--captions", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, metavar="FILE",
    help="COCO captions (.json), or .jsonl or .csv with image and caption.",
)  # fmt: skip
@click.option(
    "--out", type=options.OutFolder(), default=Path("runs/talk2dino"), show_default=True, metavar="DIR",
    help="Folder of psi.safetensors, its card, the loss curve and the checkpoint.",
)  # fmt: skip
@click.option(
    "--recipe", default="paper", show_default=True, metavar="NAME",
    help="Settings and backbones: paper, or mini for the small backbones of this package.",
)  # fmt: skip
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="A setting of the recipe, for example --set epochs=20 or --set temperature=learned. Repeatable.",
)  # fmt: skip
@options.weights
@click.option(
    "--unpaired", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
    help="What to do with captions without an image and images without a caption.",
)  # fmt: skip
@click.option("--fresh", is_flag=True, help="Start again instead of resuming from the checkpoint.")
@click.option("--workers", type=click.IntRange(min=0), default=0, metavar="N", help="Processes that decode images.")
@options.device
@options.as_json
def talk2dino(as_json: bool, **arguments: Any) -> int:
    """Train psi of Talk2DINO, which maps text embeddings of CLIP into the patch space of a DINO.

    The features of the frozen backbones are computed once and cached. Repeat the command to resume it. With torchrun,
    all processes compute features; only rank 0 trains.

    \b
    ovbench train talk2dino --images coco/train2014 --captions coco/annotations/captions_train2014.json
    torchrun --nproc-per-node 4 -m ovbench train talk2dino --images coco/train2014 --captions captions.json
    ovbench eval -m talk2dino -d voc21 --weights psi=runs/talk2dino/psi.safetensors
    """
    from ovbench.evaluation.distributed import ProcessGroup
    from ovbench.training.talk2dino.train import CARD, CURVE, PSI, TrainRequest, plan, run

    request, processes = TrainRequest(**arguments), ProcessGroup()
    planned = plan(request, processes)
    if processes.is_main:
        if planned.unpaired:
            say(f"skipped: {planned.unpaired.describe()}", err=True)
        say(f"planned: {planned.describe()}", err=True)
    card = run(planned, processes)
    processes.close()
    if card is None:  # another process trains
        return 0
    if as_json:
        click.echo(json.dumps(card, indent=1))
    else:
        say(f"psi: {request.out / PSI} (card {request.out / CARD}, loss curve {request.out / CURVE})")
        first, *_, last = card["cross_entropy"] * 2
        say(f"cross-entropy: {first:.4g} nats in the first epoch, {last:.4g} in the last")
    return 0
