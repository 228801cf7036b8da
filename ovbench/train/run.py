"""A training from the request to the files it leaves: psi with its card, the loss curve and the checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tqdm import tqdm

from ovbench import env
from ovbench.config import override_pairs
from ovbench.engine.share import Team
from ovbench.errors import InputError, UsageError, unknown
from ovbench.results.store import write_bytes, write_json
from ovbench.train.captions import Pairs, Unpaired, pair
from ovbench.train.features import (
    Part,
    Rows,
    absent,
    compute_captions,
    compute_images,
    plan_captions,
    plan_images,
)
from ovbench.train.loop import Checkpoint, Features, Order, Training, train
from ovbench.train.plot import loss_curve
from ovbench.train.recipe import Recipe, load_recipe
from ovbench.train.team import wait_for
from ovbench.training.caption_files import read_captions
from ovbench.weights import Loaded, load_backbone, missing_weights

PSI, CARD, CURVE, CHECKPOINT, UNPAIRED = "psi.safetensors", "psi.json", "loss.png", "checkpoint.pt", "unpaired.txt"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What was asked for. ``unpaired``: captions without images and images without captions are refused or skipped."""

    images: Path
    captions: Path
    out: Path
    recipe: str = "paper"
    settings: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    unpaired: str = "refuse"
    fresh: bool = False
    device: str = "auto"
    workers: int = 0


@dataclass(frozen=True)
class Planned:
    """A training whose data and weights have been found to be there."""

    job: Job
    recipe: Recipe
    pairs: Pairs
    unpaired: Unpaired
    clip: Loaded
    tower: Loaded
    image_parts: list[Part]
    caption_parts: list[Part]
    device: str

    def describe(self) -> str:
        steps = Order(len(self.pairs.texts), self.recipe).steps_an_epoch
        todo = sum(part.stop - part.start for part in absent(self.image_parts))
        return (
            f"{len(self.pairs.texts)} captions of {len(self.pairs.names)} images ({todo} to be encoded), "
            f"clip {self.clip.spec}, dinov2 {self.tower.spec}, {self.recipe.epochs} epochs of {steps} steps, "
            f"on {self.device}"
        )


def plan(job: Job, team: Team) -> Planned:
    """Read and match the data, load the backbones. All that is wrong with a request is said here."""
    recipe, backbones = load_recipe(job.recipe, override_pairs(job.settings, "--set"))
    for kind, spec in override_pairs(job.weights, "--weights").items():
        if kind not in backbones:
            raise unknown("backbone", kind, backbones, where="--weights")
        backbones[kind] = spec
    pairs, unpaired = pair(job.images, read_captions(job.captions))
    _settle(job, pairs, unpaired, team)
    if absent_weights := missing_weights(backbones):
        raise InputError(f"missing weights: {', '.join(absent_weights)}", fix="run once with a connection")
    device = env.choose_device(job.device, team.local_rank)
    clip, tower = load_backbone("clip", backbones["clip"]), load_backbone("dinov2", backbones["dinov2"])
    if clip.text is None:
        raise UsageError(f'the backbone "{clip.spec}" has no text tower', fix="choose a CLIP model")
    clip.text.model.to(device)
    tower.vision.to(device)
    if recipe.side % tower.vision.patch:
        raise UsageError(
            f"side {recipe.side} is no multiple of the patch {tower.vision.patch} of {tower.spec}",
            where="recipe", fix=f"--set side={recipe.side // tower.vision.patch * tower.vision.patch}",
        )  # fmt: skip
    return Planned(
        job, recipe, pairs, unpaired, clip, tower,
        plan_images(pairs, tower.sha256, recipe.side, recipe.attn_scale), plan_captions(pairs, clip.sha256), device,
    )  # fmt: skip


def _settle(job: Job, pairs: Pairs, unpaired: Unpaired, team: Team) -> None:
    """Refuse what has no counterpart unless it is to be skipped; either way it is listed in a file."""
    if team.leads:
        (job.out / UNPAIRED).unlink(missing_ok=True)
    if unpaired and team.leads:
        write_bytes(job.out / UNPAIRED, "".join(f"{line}\n" for line in unpaired.lines()).encode())
    if unpaired and job.unpaired == "refuse":
        raise InputError(
            unpaired.describe(), where=str(job.captions),
            fix=f"{job.out / UNPAIRED} lists them; --unpaired skip trains on the rest",
        )  # fmt: skip
    if len(pairs.texts) < 2:
        raise InputError(
            f"{len(pairs.texts)} pairs of an image and a caption are too few",
            where=str(job.captions), fix="check that --images is the folder that the names are relative to",
        )  # fmt: skip


def run(planned: Planned, team: Team) -> dict[str, Any] | None:
    """Compute the missing features in all processes; in rank 0 train, write the results, and return the card."""
    job, began = planned.job, time.time()
    encode(planned, team)
    if not team.leads:
        return None
    if job.fresh:
        (job.out / CHECKPOINT).unlink(missing_ok=True)
    features = load_features(planned)
    data = _data(planned, features)
    checkpoint = Checkpoint(job.out / CHECKPOINT, _identity(planned, data))
    steps = len(Order(len(features), planned.recipe))
    with tqdm(total=steps, desc="psi", unit="step") as bar:

        def advance(training: Training) -> None:
            bar.update(training.step - bar.n)
            bar.set_postfix(loss=f"{training.losses[-1]:.3g}", refresh=False)

        training = train(features, planned.recipe, checkpoint, device=planned.device, advance=advance)
    training.psi.trained_with = {"clip": planned.clip.sha256, "dinov2": planned.tower.sha256}
    card = _card(planned, data, training, seconds=time.time() - began)
    publish(job.out, training, card)
    return card


def encode(planned: Planned, team: Team) -> None:
    """Compute the features of images and captions that the cache lacks, divided among the processes.

    Rank 0 returns when all of them exist, another process when its own do.
    """
    pairs, recipe = planned.pairs, planned.recipe
    images, captions = team.agree((absent(planned.image_parts), absent(planned.caption_parts)))
    for part in (*images, *captions) if team.leads else ():
        part.path.unlink(missing_ok=True)  # damaged
    team.wait()
    with _bar(images, "images", team) as bar:
        compute_images(
            pairs, team.take(images), planned.tower.vision, recipe.side, recipe.attn_scale,
            workers=planned.job.workers, advance=bar.update,
        )  # fmt: skip
    with _bar(captions, "captions", team) as bar:
        compute_captions(pairs, team.take(captions), planned.clip.text, advance=bar.update)
    if team.leads:
        wait_for([part.path for part in (*images, *captions)])


def load_features(planned: Planned) -> Features:
    """Return the features of all pairs from the cache."""
    pairs = planned.pairs
    numbers = {text: number for number, text in enumerate(dict.fromkeys(pairs.texts))}
    return Features(
        Rows(planned.image_parts),
        Rows(planned.caption_parts),
        torch.tensor(pairs.image_of),
        torch.tensor([numbers[text] for text in pairs.texts]),
    )


def _bar(parts: list[Part], unit: str, team: Team) -> tqdm:
    mine = sum(part.stop - part.start for part in team.take(parts))
    return tqdm(total=mine, desc=unit, unit=unit[:-1], disable=not team.leads or not mine)


def _data(planned: Planned, features: Features) -> dict[str, Any]:
    """What was trained on; the hash is over names and contents of the images and the captions, in order."""
    pairs = planned.pairs
    digest = hashlib.sha256()
    for name, content in zip(pairs.names, features.images.sha256(), strict=True):
        digest.update(f"{name} {content}\n".encode())
    for image, text in zip(pairs.image_of, pairs.texts, strict=True):
        digest.update(f"{image} {text}\n".encode())
    return {
        "sha256": digest.hexdigest(),
        "images": len(pairs.names),
        "captions": len(pairs.texts),
        "skipped": planned.unpaired.counts(),
    }


def _identity(planned: Planned, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": data["sha256"],
        "clip": planned.clip.sha256,
        "dinov2": planned.tower.sha256,
        **dataclasses.asdict(planned.recipe),
    }


def _card(planned: Planned, data: dict[str, Any], training: Training, seconds: float) -> dict[str, Any]:
    steps = Order(len(planned.pairs.texts), planned.recipe).steps_an_epoch
    epochs = [training.losses[i : i + steps] for i in range(0, len(training.losses), steps)]
    return {
        "what": f"psi of Talk2DINO, {training.psi.text_width} to {training.psi.width}",
        "data": data,
        "backbones": {
            kind: {"name": loaded.spec, "sha256": loaded.sha256}
            for kind, loaded in (("clip", planned.clip), ("dinov2", planned.tower))
        },
        "recipe": dataclasses.asdict(planned.recipe),
        "optimiser": "Adam, betas 0.9 and 0.999, epsilon 1e-8, no weight decay",
        "cross_entropy": [sum(epoch) / len(epoch) for epoch in epochs],  # nats, before any divisor
        "temperature": float((-training.scale).exp()),
        "sha256": hashlib.sha256(_tensors(training)).hexdigest(),
        "versions": env.versions(),
        "git": env.git_revision(),
        "device": env.device_name(planned.device),
        "seconds": round(seconds, 1),
    }


def _tensors(training: Training) -> bytes:
    state = {name: tensor.cpu().contiguous() for name, tensor in training.psi.state_dict().items()}
    return save(state, training.psi.metadata())


def publish(out: Path, training: Training, card: dict[str, Any]) -> None:
    """Write psi, its card and the loss curve."""
    write_bytes(out / PSI, _tensors(training))
    write_json(out / CARD, card)
    write_bytes(out / CURVE, loss_curve(training.losses, card["cross_entropy"]))
