"""The training of psi: Adam over pairs of cached features, with checkpoints."""

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

from ovbench.methods.talk2dino.projection import Psi
from ovbench.training.talk2dino.contrast import LOGIT_SCALE, false_negatives, info_nce, select_heads, unit
from ovbench.training.talk2dino.features import FeatureTable
from ovbench.training.talk2dino.recipe import Recipe
from ovbench.utils.errors import InputError
from ovbench.utils.files import write_bytes

STEPS_PER_CHECKPOINT = 1000


@dataclass(frozen=True)
class TrainingData:
    """Features of images and captions; for each pair its image, int64 (N,), and a number of its text, int64 (N,)."""

    images: FeatureTable
    texts: FeatureTable
    image_of: Tensor
    text_of: Tensor

    def __len__(self) -> int:
        return len(self.image_of)


@dataclass
class PairBatch:
    """The pairs of one step: image embeddings (B, heads, C), text features (B, D), numbers of the pairs (B,)."""

    images: Tensor
    texts: Tensor
    pairs: Tensor


@dataclass
class TrainingState:
    """Everything that a step changes.

    ``losses`` is the cross-entropy of every step before the divisor, so that batches of different size compare.
    """

    psi: Psi
    scale: nn.Parameter
    optimiser: Adam
    schedule: LambdaLR
    losses: list[float] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The number of finished steps."""
        return len(self.losses)


class PairDataset(Dataset):
    """Batches of pairs by their numbers."""

    def __init__(self, data: TrainingData):
        self.data = data

    def __getitem__(self, pairs: list[int]) -> PairBatch:
        numbers = torch.tensor(pairs)
        return PairBatch(self.data.images[self.data.image_of[numbers]], self.data.texts[numbers], numbers)


class EpochSampler(Sampler):
    """Batches of pair numbers; seed and epoch alone decide the order, so a training resumes at any step.

    Every epoch has all pairs once. Its last batch may be smaller.
    """

    def __init__(self, pairs: int, recipe: Recipe, first_step: int = 0):
        self.pairs, self.recipe, self.first_step = pairs, recipe, first_step

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return math.ceil(self.pairs / self.recipe.batch)

    def __len__(self) -> int:
        return self.steps_per_epoch * self.recipe.epochs - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        first_epoch, skipped = divmod(self.first_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.recipe.epochs):
            generator = torch.Generator().manual_seed((self.recipe.seed << 20) + epoch)
            order = torch.randperm(self.pairs, generator=generator).tolist()
            batches = [order[i : i + self.recipe.batch] for i in range(0, len(order), self.recipe.batch)]
            yield from batches[skipped:]
            skipped = 0


def new_training(recipe: Recipe, text_width: int, width: int, steps: int, device: str = "cpu") -> TrainingState:
    """Return the state before the first step; the weights depend on the seed alone.

    Args:
        recipe: The settings.
        text_width: Width of the text features.
        width: Width of the image embeddings.
        steps: Length of the training, for the schedule of the learning rate.
        device: Device of psi.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        psi = Psi(text_width, width, unit_text=recipe.text == "unit")
    return with_optimiser(psi.to(device), torch.tensor(math.log(LOGIT_SCALE), device=device), recipe, steps)


def with_optimiser(psi: Psi, scale: Tensor, recipe: Recipe, steps: int) -> TrainingState:
    """Return a state with Adam over psi and, if it is learned, over ``scale``, the log of the logit scale.

    Args:
        psi: The network.
        scale: float (), log of the logit scale.
        recipe: The settings.
        steps: Length of the training, for the schedule of the learning rate.
    """
    scale = nn.Parameter(scale.detach(), requires_grad=recipe.temperature == "learned")
    learned = [*psi.parameters(), *([scale] if scale.requires_grad else [])]
    optimiser = Adam(learned, lr=recipe.lr, betas=(0.9, 0.999), eps=1e-8)
    factors = {"constant": lambda step: 1.0, "cosine": lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2}
    return TrainingState(psi, scale, optimiser, LambdaLR(optimiser, factors[recipe.schedule]))


def cross_entropy(state: TrainingState, batch: PairBatch, recipe: Recipe, data: TrainingData | None = None) -> Tensor:
    """Return the loss of a batch before the divisor, in nats; ``data`` is needed to mask false negatives.

    Args:
        state: psi and the scale.
        batch: The pairs.
        recipe: The settings.
        data: All pairs, to find false negatives.
    """
    text = unit(state.psi(batch.texts))
    selected = select_heads(text, batch.images)
    similarity = text @ selected.vectors.T
    ignored = None
    if recipe.false_negatives == "masked" and data is not None:
        ignored = false_negatives(data.image_of[batch.pairs], data.text_of[batch.pairs]).to(similarity.device)
    return info_nce(similarity, state.scale.exp(), ignored=ignored)


def take_step(state: TrainingState, batch: PairBatch, recipe: Recipe, data: TrainingData | None = None) -> float:
    """Update psi once and return the loss after the divisor.

    Args:
        state: The state; it is changed.
        batch: The pairs.
        recipe: The settings.
        data: All pairs, to find false negatives.
    """
    state.optimiser.zero_grad(set_to_none=True)
    entropy = cross_entropy(state, batch, recipe, data)
    loss = entropy / len(batch.pairs) ** 2 if recipe.loss_divisor == "batch_squared" else entropy
    loss.backward()
    state.optimiser.step()
    state.schedule.step()
    state.losses.append(float(entropy.detach()))
    return float(loss.detach())


def train(
    data: TrainingData,
    recipe: Recipe,
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    advance: Callable[[TrainingState], None] = lambda state: None,
) -> TrainingState:
    """Train to the end of the last epoch, from the checkpoint if there is one.

    An interrupted and resumed training gives the weights and losses of an uninterrupted one.

    Args:
        data: The features.
        recipe: The settings.
        checkpoint: Read first, and written after every epoch and every ``STEPS_PER_CHECKPOINT`` steps.
        device: Device of the training.
        advance: Called after every step.

    Raises:
        InputError: If the loss is no longer finite, or the checkpoint is damaged or of another training.
    """
    steps = len(EpochSampler(len(data), recipe))
    state = new_training(recipe, data.texts.shape[-1], data.images.shape[-1], steps, device)
    checkpoint.load(state, device)
    sampler = EpochSampler(len(data), recipe, state.step)
    for batch in DataLoader(PairDataset(data), sampler=sampler, batch_size=None):
        batch.images, batch.texts = batch.images.to(device), batch.texts.to(device)
        take_step(state, batch, recipe, data)
        if not math.isfinite(state.losses[-1]):
            raise InputError(f"the loss is {state.losses[-1]} in step {state.step}", fix="set a smaller --set lr=")
        if state.step % sampler.steps_per_epoch == 0 or state.step % STEPS_PER_CHECKPOINT == 0:
            checkpoint.save(state)
        advance(state)
    return state


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint file of a training, and plain data (recipe, hashes) that identify the training."""

    path: Path
    belongs_to: dict[str, Any]

    def save(self, state: TrainingState) -> None:
        """Write the state."""
        buffer = io.BytesIO()
        torch.save(
            {
                "belongs_to": self.belongs_to,
                "psi": state.psi.state_dict(),
                "scale": state.scale.detach(),
                "optimiser": state.optimiser.state_dict(),
                "schedule": state.schedule.state_dict(),
                "losses": torch.tensor(state.losses, dtype=torch.float64),
            },
            buffer,
        )
        write_bytes(self.path, buffer.getvalue())

    def load(self, state: TrainingState, device: str) -> bool:
        """Fill a new state and return True, or return False if there is no file.

        Raises:
            InputError: If the checkpoint is damaged or of another training.
        """
        if not self.path.is_file():
            return False
        fix = "choose another --out, or start again with --fresh"
        try:
            saved = torch.load(self.path, map_location=device, weights_only=True)
            theirs = saved["belongs_to"]
            if theirs != self.belongs_to:
                raise InputError(
                    f"the checkpoint is of another training: {_difference(theirs, self.belongs_to)}",
                    where=str(self.path), fix=fix,
                )  # fmt: skip
            state.psi.load_state_dict(saved["psi"])
            state.scale.data.copy_(saved["scale"])
            state.optimiser.load_state_dict(saved["optimiser"])
            state.schedule.load_state_dict(saved["schedule"])
            state.losses = saved["losses"].tolist()
        except InputError:
            raise
        except Exception as error:  # zip, pickle and key errors have no common base class
            problem = f"the checkpoint is damaged ({type(error).__name__})"
            raise InputError(problem, where=str(self.path), fix=fix) from None
        return True


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    keys: Sequence[str] = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    return ", ".join(f"{key} {theirs.get(key)}, now {ours.get(key)}" for key in keys)
