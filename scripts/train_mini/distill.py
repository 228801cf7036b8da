"""Self-distillation for dino.py and dinov2.py: a student, and a teacher that is its moving average."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from lightly.loss import DINOLoss
from pool import IMAGENET_MEAN, IMAGENET_STD, Pool, rate, save
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer


def normalised(images: np.ndarray) -> torch.Tensor:
    """Normalise images, float32 (B, S, S, 3) in 0..1, to float (B, 3, S, S)."""
    x = (images - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def placed(vit: VisionTransformer, patches: torch.Tensor, offset: np.ndarray) -> torch.Tensor:
    """Return embedded patches, float (B, g * g, C), after the class token, with the positions of a square of the grid
    from ``offset`` on, as float (B, 1 + g * g, C).
    """
    b, n, c = patches.shape
    g, (whole, _) = math.isqrt(n), vit.patch_embed.grid_size
    table = vit.pos_embed[0, 1:].view(whole, whole, c)
    table = table[offset[0] : offset[0] + g, offset[1] : offset[1] + g].reshape(-1, c)
    cls = (vit.cls_token[0] + vit.pos_embed[0, :1]).expand(b, 1, c)
    return torch.cat([cls.to(patches.dtype), patches + table], dim=1)


class Plan(NamedTuple):
    """The settings of a training: ``name`` of its files, arguments of timm's VisionTransformer, function that builds
    a network (with the transformer as ``vit``), number of its DINOLosses and their prototypes, temperatures of
    teacher and student, first and last momentum of the teacher, peak of the learning rate, and the loss of a step on
    new views.
    """

    name: str
    model: dict[str, int]
    network: Callable[[], torch.nn.Module]
    losses: int
    prototypes: int
    temperatures: tuple[float, float]
    momentum: tuple[float, float]
    learning_rate: float
    step_loss: Callable[[torch.nn.Module, torch.nn.Module, list[DINOLoss], Pool, np.random.RandomState], torch.Tensor]


class Run:
    """The content of a checkpoint: student, teacher, centres of the losses, optimiser, finished steps and seconds."""

    def __init__(self, plan: Plan, seed: int):
        torch.manual_seed(seed)
        self.student, self.teacher = plan.network(), plan.network().requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        teacher, student = plan.temperatures
        self.losses = [
            DINOLoss(plan.prototypes, teacher_temp=teacher, student_temp=student) for _ in range(plan.losses)
        ]
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=0.04, fused=True)
        self.step, self.seconds = 0, 0.0

    def load(self, path: Path) -> None:
        """Resume from a checkpoint."""
        state = torch.load(path, weights_only=True)
        for name in ("student", "teacher", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        for loss, centre in zip(self.losses, state["centres"], strict=True):
            loss.center = centre
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self, path: Path, seconds: float) -> None:
        """Write a checkpoint."""
        state = {name: getattr(self, name).state_dict() for name in ("student", "teacher", "optimizer")}
        save(path, {**state, "centres": [x.center for x in self.losses], "step": self.step, "seconds": seconds})

    def update(self, loss: torch.Tensor, learning_rate: float, momentum: float) -> None:
        """Update the student, then the teacher, once."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)


def train(plan: Plan, options: argparse.Namespace) -> None:
    """Train to --steps, from the checkpoint in --work if there is one."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    timm.layers.set_fused_attn(False)  # the gradient of plain products is faster on a CPU
    pool = Pool(options.work / "pool", options.scenes)
    run, path = Run(plan, options.seed), options.work / f"{plan.name}.pt"
    if path.exists():
        run.load(path)
    started, shown = time.time() - run.seconds, None
    while run.step < options.steps:
        rng = np.random.RandomState((options.seed * 1_000_003 + run.step) % (1 << 32))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = plan.step_loss(run.student, run.teacher, run.losses, pool, rng)
        momentum = plan.momentum[0] + (plan.momentum[1] - plan.momentum[0]) * run.step / options.steps
        run.update(loss, rate(run.step, options.steps, plan.learning_rate), momentum)
        shown = loss.item() if shown is None else 0.98 * shown + 0.02 * loss.item()
        if run.step % 50 == 0:
            line = {"step": run.step, "seconds": round(time.time() - started), "loss": round(shown, 3)}
            print(json.dumps(line), flush=True)
        if run.step % 200 == 0 or run.step == options.steps:
            run.save(path, time.time() - started)


def export(plan: Plan, options: argparse.Namespace) -> None:
    """Write the teacher, NAME.safetensors (fp16) and NAME.json (arguments of VisionTransformer), to --export."""
    state = torch.load(options.work / f"{plan.name}.pt", weights_only=True)["teacher"]
    weights = {k.removeprefix("vit."): t.half().contiguous() for k, t in state.items() if k.startswith("vit.")}
    options.export.mkdir(parents=True, exist_ok=True)
    save_file(weights, options.export / f"{plan.name}.safetensors")
    (options.export / f"{plan.name}.json").write_text(json.dumps(plan.model, indent=1) + "\n")
