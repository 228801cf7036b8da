"""A training from the request to its files: psi with its card, the loss curve and the checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tqdm import tqdm

from ovbench.backbones.base import Loaded
from ovbench.backbones.build import load_backbone, missing_weights
from ovbench.config.load import override_pairs
from ovbench.evaluation.distributed import ProcessGroup
from ovbench.training.caption_files import read_captions
from ovbench.training.talk2dino.captioned_images import CaptionedImages, Unpaired, pair
from ovbench.training.talk2dino.features import (
    FeatureFile,
    FeatureTable,
    compute_captions,
    compute_images,
    missing_files,
    plan_captions,
    plan_images,
)
from ovbench.training.talk2dino.loop import Checkpoint, EpochSampler, TrainingData, TrainingState, train
from ovbench.training.talk2dino.loss_plot import loss_curve
from ovbench.training.talk2dino.recipe import Recipe, load_recipe
from ovbench.utils import provenance as env
from ovbench.utils.errors import InputError, UsageError, unknown
from ovbench.utils.files import write_bytes, write_json

PSI, CARD, CURVE, CHECKPOINT, UNPAIRED = "psi.safetensors", "psi.json", "loss.png", "checkpoint.pt", "unpaired.txt"
POLL_INTERVAL_S = 0.5


@dataclass(frozen=True)
class TrainRequest:
    """The arguments of a training.

    Attributes:
        images: Folder of the images.
        captions: File of the captions.
        out: Folder of the results.
        recipe: Name of the recipe.
        settings: ``key=value`` settings of the recipe.
        weights: ``backbone=name`` choices of backbones.
        unpaired: "refuse" or "skip" captions without an image and images without a caption.
        fresh: Ignore the checkpoint.
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: Processes that decode images.
    """

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
class TrainPlan:
    """A training whose data and weights are present."""

    request: TrainRequest
    recipe: Recipe
    pairs: CaptionedImages
    unpaired: Unpaired
    clip: Loaded
    tower: Loaded
    image_files: list[FeatureFile]
    caption_files: list[FeatureFile]
    device: str

    def describe(self) -> str:
        """Return the plan in one line."""
        steps = EpochSampler(len(self.pairs.texts), self.recipe).steps_per_epoch
        todo = _rows(missing_files(self.image_files))
        return (
            f"{len(self.pairs.texts)} captions of {len(self.pairs.names)} images ({todo} to be encoded), "
            f"clip {self.clip.spec}, dinov2 {self.tower.spec}, {self.recipe.epochs} epochs of {steps} steps, "
            f"on {self.device}"
        )


def plan(request: TrainRequest, processes: ProcessGroup) -> TrainPlan:
    """Read and match the data and load the backbones.

    Raises:
        UsageError: If a setting, a backbone or the recipe does not exist or does not fit.
        InputError: If images, captions or weights are missing, damaged or do not match.
    """
    recipe, backbones = load_recipe(request.recipe, override_pairs(request.settings, "--set"))
    for role, spec in override_pairs(request.weights, "--weights").items():
        if role not in backbones:
            raise unknown("backbone", role, backbones, where="--weights")
        backbones[role] = spec
    pairs, unpaired = pair(request.images, read_captions(request.captions))
    _check_unpaired(request, pairs, unpaired, processes)
    if absent_weights := missing_weights(backbones):
        raise InputError(f"missing weights: {', '.join(absent_weights)}", fix="run once with a connection")
    device = env.choose_device(request.device, processes.local_rank)
    clip, tower = load_backbone("clip", backbones["clip"]), load_backbone("dinov2", backbones["dinov2"])
    if clip.text is None:
        raise UsageError(f'the backbone "{clip.spec}" has no text tower', fix="choose a CLIP model")
    clip.text.model.to(device)
    tower.vision.to(device)
    if recipe.side % tower.vision.patch:
        raise UsageError(
            f"side {recipe.side} is not a multiple of the patch {tower.vision.patch} of {tower.spec}",
            where="recipe", fix=f"--set side={recipe.side // tower.vision.patch * tower.vision.patch}",
        )  # fmt: skip
    return TrainPlan(
        request, recipe, pairs, unpaired, clip, tower,
        plan_images(pairs, tower.sha256, recipe.side, recipe.attn_scale), plan_captions(pairs, clip.sha256), device,
    )  # fmt: skip


def _check_unpaired(request: TrainRequest, pairs: CaptionedImages, unpaired: Unpaired, processes: ProcessGroup) -> None:
    """List the unpaired captions and images in a file, and refuse them unless they are to be skipped."""
    if processes.is_main:
        (request.out / UNPAIRED).unlink(missing_ok=True)
    if unpaired and processes.is_main:
        write_bytes(request.out / UNPAIRED, "".join(f"{line}\n" for line in unpaired.lines()).encode())
    if unpaired and request.unpaired == "refuse":
        raise InputError(
            unpaired.describe(), where=str(request.captions),
            fix=f"{request.out / UNPAIRED} lists them; --unpaired skip trains on the rest",
        )  # fmt: skip
    if len(pairs.texts) < 2:
        raise InputError(
            f"{len(pairs.texts)} pairs of an image and a caption are too few",
            where=str(request.captions), fix="check that --images is the folder that the names are relative to",
        )  # fmt: skip


def run(planned: TrainPlan, processes: ProcessGroup) -> dict[str, Any] | None:
    """Compute the missing features in all processes; in rank 0 train, write the results, and return the card."""
    out, began = planned.request.out, time.time()
    encode(planned, processes)
    if not processes.is_main:
        return None
    if planned.request.fresh:
        (out / CHECKPOINT).unlink(missing_ok=True)
    features = load_features(planned)
    data = _describe_data(planned, features)
    checkpoint = Checkpoint(out / CHECKPOINT, _identity(planned, data))
    steps = len(EpochSampler(len(features), planned.recipe))
    with tqdm(total=steps, desc="psi", unit="step", disable=None) as bar:

        def advance(state: TrainingState) -> None:
            bar.update(state.step - bar.n)
            bar.set_postfix(loss=f"{state.losses[-1]:.3g}", refresh=False)

        state = train(features, planned.recipe, checkpoint, device=planned.device, advance=advance)
    state.psi.trained_with = {"clip": planned.clip.sha256, "dinov2": planned.tower.sha256}
    card = _card(planned, data, state, seconds=time.time() - began)
    publish(out, state, card)
    return card


def encode(planned: TrainPlan, processes: ProcessGroup) -> None:
    """Compute the features of images and captions that the cache lacks, divided among the processes.

    Rank 0 returns when all of them exist, another process when its own do.
    """
    pairs, recipe = planned.pairs, planned.recipe
    images, captions = processes.broadcast((missing_files(planned.image_files), missing_files(planned.caption_files)))
    for file in (*images, *captions) if processes.is_main else ():
        file.path.unlink(missing_ok=True)  # damaged
    processes.barrier()
    with _bar(images, "images", processes) as bar:
        compute_images(
            pairs, processes.take(images), planned.tower.vision, recipe.side, recipe.attn_scale,
            workers=planned.request.workers, advance=bar.update,
        )  # fmt: skip
    with _bar(captions, "captions", processes) as bar:
        compute_captions(pairs, processes.take(captions), planned.clip.text, advance=bar.update)
    if processes.is_main:
        _wait_for([file.path for file in (*images, *captions)])


def _wait_for(paths: Sequence[Path]) -> None:
    """Return when all files exist.

    Other processes may need longer than the timeout of a collective call. If one of them fails, torchrun ends this one.
    """
    for path in paths:
        while not path.is_file():
            time.sleep(POLL_INTERVAL_S)


def load_features(planned: TrainPlan) -> TrainingData:
    """Return the features of all pairs from the cache."""
    pairs = planned.pairs
    numbers = {text: number for number, text in enumerate(dict.fromkeys(pairs.texts))}
    return TrainingData(
        FeatureTable(planned.image_files),
        FeatureTable(planned.caption_files),
        torch.tensor(pairs.image_of),
        torch.tensor([numbers[text] for text in pairs.texts]),
    )


def _rows(files: Sequence[FeatureFile]) -> int:
    return sum(file.stop - file.start for file in files)


def _bar(files: list[FeatureFile], unit: str, processes: ProcessGroup) -> tqdm:
    mine = _rows(processes.take(files))
    return tqdm(total=mine, desc=unit, unit=unit[:-1], disable=None if processes.is_main and mine else True)


def _describe_data(planned: TrainPlan, features: TrainingData) -> dict[str, Any]:
    """Return counts, and a hash of the images (name, content) and captions in their order."""
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


def _identity(planned: TrainPlan, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": data["sha256"],
        "clip": planned.clip.sha256,
        "dinov2": planned.tower.sha256,
        **dataclasses.asdict(planned.recipe),
    }


def _card(planned: TrainPlan, data: dict[str, Any], state: TrainingState, seconds: float) -> dict[str, Any]:
    steps = EpochSampler(len(planned.pairs.texts), planned.recipe).steps_per_epoch
    epochs = [state.losses[i : i + steps] for i in range(0, len(state.losses), steps)]
    return {
        "what": f"psi of Talk2DINO, {state.psi.text_width} to {state.psi.width}",
        "data": data,
        "backbones": {
            role: {"name": loaded.spec, "sha256": loaded.sha256}
            for role, loaded in (("clip", planned.clip), ("dinov2", planned.tower))
        },
        "recipe": dataclasses.asdict(planned.recipe),
        "optimiser": "Adam, betas 0.9 and 0.999, epsilon 1e-8, no weight decay",
        "cross_entropy": [sum(epoch) / len(epoch) for epoch in epochs],  # nats, before any divisor
        "temperature": float((-state.scale).exp()),
        "sha256": hashlib.sha256(_tensors(state)).hexdigest(),
        "versions": env.versions(),
        "git": env.git_revision(),
        "device": env.device_name(planned.device),
        "seconds": round(seconds, 1),
    }


def _tensors(state: TrainingState) -> bytes:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.psi.state_dict().items()}
    return save(tensors, state.psi.metadata())


def publish(out: Path, state: TrainingState, card: dict[str, Any]) -> None:
    """Write psi, its card and the loss curve."""
    write_bytes(out / PSI, _tensors(state))
    write_json(out / CARD, card)
    write_bytes(out / CURVE, loss_curve(state.losses, card["cross_entropy"]))
