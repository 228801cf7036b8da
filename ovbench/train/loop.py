"""The training of psi: Adam over pairs of stored features, from a checkpoint where there is one."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler

from ovbench.backbones.psi import Psi
from ovbench.errors import InputError
from ovbench.results.store import write_bytes
from ovbench.train.contrast import LOGIT_SCALE, false_negatives, info_nce, select_heads, unit
from ovbench.train.features import Rows
from ovbench.train.recipe import Recipe

STEPS_A_CHECKPOINT = 1000


@dataclass(frozen=True)
class Features:
    """What is trained on: per caption its text feature, its image, and a number that equal words share."""

    images: Rows
    texts: Rows
    image_of: Tensor
    words_of: Tensor

    def __len__(self) -> int:
        return len(self.image_of)


@dataclass
class Batch:
    """The pairs of one step: their features and their numbers."""

    images: Tensor
    texts: Tensor
    pairs: Tensor


@dataclass
class Training:
    """All that a step changes. ``losses``: the cross-entropy of every step so far, before any divisor, so that batches
    of unlike size compare."""

    psi: Psi
    scale: nn.Parameter
    optimiser: Adam
    schedule: LambdaLR
    losses: list[float] = field(default_factory=list)

    @property
    def step(self) -> int:
        return len(self.losses)


class PairFeatures(Dataset):
    """Features of pairs by their numbers, a whole batch at a time."""

    def __init__(self, features: Features):
        self.features = features

    def __getitem__(self, pairs: list[int]) -> Batch:
        numbers = torch.tensor(pairs)
        return Batch(self.features.images[self.features.image_of[numbers]], self.features.texts[numbers], numbers)


class Order(Sampler):
    """Batches of pair numbers: every epoch all pairs in an order of its own, which seed and epoch decide, so that a
    training can go on at any step. The last batch of an epoch is smaller where it has to be."""

    def __init__(self, pairs: int, recipe: Recipe, first_step: int = 0):
        self.pairs, self.recipe, self.first_step = pairs, recipe, first_step

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(self.pairs / self.recipe.batch)

    def __len__(self) -> int:
        return self.steps_an_epoch * self.recipe.epochs - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        first_epoch, skipped = divmod(self.first_step, self.steps_an_epoch)
        for epoch in range(first_epoch, self.recipe.epochs):
            generator = torch.Generator().manual_seed((self.recipe.seed << 20) + epoch)
            order = torch.randperm(self.pairs, generator=generator).tolist()
            batches = [order[i : i + self.recipe.batch] for i in range(0, len(order), self.recipe.batch)]
            yield from batches[skipped:]
            skipped = 0


def start(recipe: Recipe, text_width: int, width: int, steps: int, device: str = "cpu") -> Training:
    """A new training; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        psi = Psi(text_width, width, unit_text=recipe.text == "unit")
    return make(psi.to(device), torch.tensor(math.log(LOGIT_SCALE), device=device), recipe, steps)


def make(psi: Psi, scale: Tensor, recipe: Recipe, steps: int) -> Training:
    """Adam over psi and, where it is learned, the logarithm of the logit scale."""
    scale = nn.Parameter(scale.detach(), requires_grad=recipe.temperature == "learned")
    learned = [*psi.parameters(), *([scale] if scale.requires_grad else [])]
    optimiser = Adam(learned, lr=recipe.lr, betas=(0.9, 0.999), eps=1e-8)
    factors = {"constant": lambda step: 1.0, "cosine": lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2}
    return Training(psi, scale, optimiser, LambdaLR(optimiser, factors[recipe.schedule]))


def cross_entropy(training: Training, batch: Batch, recipe: Recipe, features: Features | None = None) -> Tensor:
    """The loss of a step before any divisor; see `ovbench.train.contrast`."""
    text = unit(training.psi(batch.texts))
    chosen = select_heads(text, batch.images)
    similarity = text @ chosen.vectors.T
    ignored = None
    if recipe.false_negatives == "masked" and features is not None:
        numbers = features.image_of[batch.pairs], features.words_of[batch.pairs]
        ignored = false_negatives(*numbers).to(similarity.device)
    return info_nce(similarity, training.scale.exp(), ignored=ignored)


def take_step(training: Training, batch: Batch, recipe: Recipe, features: Features | None = None) -> float:
    """One update of psi; its loss."""
    training.optimiser.zero_grad(set_to_none=True)
    entropy = cross_entropy(training, batch, recipe, features)
    loss = entropy / len(batch.pairs) ** 2 if recipe.loss_divisor == "batch_squared" else entropy
    loss.backward()
    training.optimiser.step()
    training.schedule.step()
    training.losses.append(float(entropy.detach()))
    return float(loss.detach())


def train(
    features: Features,
    recipe: Recipe,
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    advance: Callable[[Training], None] = lambda training: None,
) -> Training:
    """Train to the end of the last epoch, from the checkpoint on if there is one. Ended and started again at any point,
    the weights and losses are those of one uninterrupted run."""
    steps = len(Order(len(features), recipe))
    training = start(recipe, features.texts.shape[-1], features.images.shape[-1], steps, device)
    checkpoint.load(training, device)
    order = Order(len(features), recipe, training.step)
    loader = DataLoader(PairFeatures(features), sampler=order, batch_size=None)
    for batch in loader:
        batch.images, batch.texts = batch.images.to(device), batch.texts.to(device)
        take_step(training, batch, recipe, features)
        if not math.isfinite(training.losses[-1]):
            raise InputError(f"the loss became {training.losses[-1]} in step {training.step}", fix="lower --set lr=")
        ends = training.step % order.steps_an_epoch == 0
        if ends or training.step % STEPS_A_CHECKPOINT == 0:
            checkpoint.save(training)
        advance(training)
    return training


@dataclass(frozen=True)
class Checkpoint:
    """The file that a training goes on from, and what it belongs to: plain data about recipe and features."""

    path: Path
    belongs_to: dict[str, Any]

    def save(self, training: Training) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "belongs_to": self.belongs_to,
                "psi": training.psi.state_dict(),
                "scale": training.scale.detach(),
                "optimiser": training.optimiser.state_dict(),
                "schedule": training.schedule.state_dict(),
                "losses": torch.tensor(training.losses, dtype=torch.float64),
            },
            buffer,
        )
        write_bytes(self.path, buffer.getvalue())

    def load(self, training: Training, device: str) -> bool:
        """Fill a new training; False where there is no file. InputError for one that is damaged or of another one."""
        if not self.path.is_file():
            return False
        fix = "choose another --out, or start over with --fresh"
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
            theirs = state["belongs_to"]
        except Exception as error:  # zip, pickle and key errors have no common base class
            problem = f"the checkpoint is damaged ({type(error).__name__})"
            raise InputError(problem, where=str(self.path), fix=fix) from None
        if theirs != self.belongs_to:
            raise InputError(
                f"the checkpoint is of another training: {_difference(theirs, self.belongs_to)}",
                where=str(self.path), fix=fix,
            )  # fmt: skip
        training.psi.load_state_dict(state["psi"])
        training.scale.data.copy_(state["scale"])
        training.optimiser.load_state_dict(state["optimiser"])
        training.schedule.load_state_dict(state["schedule"])
        training.losses = state["losses"].tolist()
        return True


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    keys: Sequence[str] = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    return ", ".join(f"{key} {theirs.get(key)}, now {ours.get(key)}" for key in keys)
