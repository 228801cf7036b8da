"""Self-distillation as dino.py and dinov2.py run it: a student, and a teacher that is its moving average."""

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
    """f32[b,s,s,3] in 0..1 as the transformers take them, f[b,3,s,s]."""
    x = (images - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def placed(vit: VisionTransformer, patches: torch.Tensor, offset: np.ndarray) -> torch.Tensor:
    """Embedded patches f[b,g*g,c] behind the class token, f[b,1+g*g,c], with the positions that a square of the whole
    grid has from ``offset`` on."""
    b, n, c = patches.shape
    g, (whole, _) = math.isqrt(n), vit.patch_embed.grid_size
    table = vit.pos_embed[0, 1:].view(whole, whole, c)
    table = table[offset[0] : offset[0] + g, offset[1] : offset[1] + g].reshape(-1, c)
    cls = (vit.cls_token[0] + vit.pos_embed[0, :1]).expand(b, 1, c)
    return torch.cat([cls.to(patches.dtype), patches + table], dim=1)


class Plan(NamedTuple):
    """What is trained and how: the ``name`` of its files, arguments of timm's VisionTransformer, what makes a network
    (with the transformer as ``vit``), the number of its DINOLosses and of their prototypes, teacher's and student's
    temperature, the teacher's momentum at both ends, the learning rate's peak, and the loss of a step on fresh views.
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
    """What a checkpoint holds: student, teacher, centres of the losses, optimiser, steps and seconds so far."""

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
        """Continues from a checkpoint."""
        state = torch.load(path, weights_only=True)
        for name in ("student", "teacher", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        for loss, centre in zip(self.losses, state["centres"], strict=True):
            loss.center = centre
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self, path: Path, seconds: float) -> None:
        """Writes a checkpoint."""
        state = {name: getattr(self, name).state_dict() for name in ("student", "teacher", "optimizer")}
        save(path, {**state, "centres": [x.center for x in self.losses], "step": self.step, "seconds": seconds})

    def update(self, loss: torch.Tensor, learning_rate: float, momentum: float) -> None:
        """One step of the student, then one of the teacher."""
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
    """Trains to --steps from the checkpoint in --work if there is one."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    timm.layers.set_fused_attn(False)  # plain products are faster to differentiate on a CPU
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
    """Writes the teacher, NAME.safetensors (fp16) and NAME.json (arguments of VisionTransformer), to --export."""
    state = torch.load(options.work / f"{plan.name}.pt", weights_only=True)["teacher"]
    weights = {k.removeprefix("vit."): t.half().contiguous() for k, t in state.items() if k.startswith("vit.")}
    options.export.mkdir(parents=True, exist_ok=True)
    save_file(weights, options.export / f"{plan.name}.safetensors")
    (options.export / f"{plan.name}.json").write_text(json.dumps(plan.model, indent=1) + "\n")
