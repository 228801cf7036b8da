"""Train the small DINOv2-like vision transformer of `mini` on its training images, without text and labels.

A place is shown in two views with different light, one of them rotated and slightly shifted. As in DINOv2, the teacher
assigns every patch to prototypes (balanced over the batch by Sinkhorn-Knopp, as in SwAV), and the student predicts the
assignment at the same place of the other view, also for masked patches. Class tokens are compared with lightly's
DINOLoss. So the final patch tokens distinguish materials, whereas dino.py trains the query + key features.

    python scripts/train_mini/dinov2.py --work /tmp/mini --steps 1500
    python scripts/train_mini/dinov2.py --work /tmp/mini --export ovbench/assets/mini
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from distill import Plan, export, normalised, placed, train
from lightly.loss import DINOLoss
from lightly.loss.swav_loss import sinkhorn
from lightly.models.modules import DINOProjectionHead
from pool import EVAL_SHORT_SIDE, Pool, command_line
from timm.models.vision_transformer import VisionTransformer

MODEL = {"img_size": 112, "patch_size": 8, "embed_dim": 96, "depth": 5, "num_heads": 6, "num_classes": 0}
IMAGES, VIEW, PATCH = 32, 96, 8
GRID, WHOLE = VIEW // PATCH, MODEL["img_size"] // PATCH
SHIFT = 8  # pixels, at a short side of 224
PROTOTYPES, TEACHER_TEMP, STUDENT_TEMP = 256, 0.05, 0.1
MASKED = 0.4  # of the patches, in every other image
MOMENTUM = (0.99, 0.9995)
LEARNING_RATE = 1e-3
CLASS_TOKEN_WEIGHT = 0.25


class Turn(NamedTuple):
    """A rotation by multiples of 90 degrees and an optional flip of the axes ``dims``."""

    quarters: int
    flip: bool

    def there(self, x: torch.Tensor, dims: tuple[int, int]) -> torch.Tensor:
        x = torch.rot90(x, self.quarters, dims)
        return x.flip(dims[1]) if self.flip else x

    def back(self, x: torch.Tensor, dims: tuple[int, int]) -> torch.Tensor:
        return torch.rot90(x.flip(dims[1]) if self.flip else x, -self.quarters, dims)


def draw(pool: Pool, rng: np.random.RandomState) -> tuple[np.ndarray, Turn]:
    """Return two views of a place in each of B images, uint8 (2, B, 96, 96, 3), and the rotation of the second view."""
    views = np.empty((2, IMAGES, VIEW, VIEW, 3), np.uint8)
    for i in range(IMAGES):
        image, _ = pool.scene(rng.randint(len(pool)))
        h, w = image.shape[:2]
        factor = EVAL_SHORT_SIDE / min(h, w) * rng.uniform(0.75, 1.3)
        side, shift = min(int(VIEW / factor), h, w), SHIFT / factor
        top, left = rng.randint(h - side + 1), rng.randint(w - side + 1)
        for v in range(2):
            y = int(min(max(top + (v and rng.uniform(-shift, shift)), 0), h - side))
            x = int(min(max(left + (v and rng.uniform(-shift, shift)), 0), w - side))
            views[v, i] = cv2.resize(np.ascontiguousarray(image[y : y + side, x : x + side]), (VIEW, VIEW))
    turn = rng.randint(8)
    return views, Turn(turn % 4, turn >= 4)


def lit(images: np.ndarray, rng: np.random.RandomState) -> torch.Tensor:
    """Return images, uint8 (B, S, S, 3), with another light (also as a gradient), tint and noise, some blurred, as
    normalised float (B, 3, S, S)."""
    b = len(images)

    def each(low: float, high: float, channels: int = 1) -> np.ndarray:
        return rng.uniform(low, high, (b, 1, 1, channels)).astype(np.float32)

    x, ramp = images.astype(np.float32) / 255, np.linspace(-0.5, 0.5, VIEW, dtype=np.float32)
    gain, tint = np.exp(each(-0.55, 0.35)), each(0.9, 1.1, 3)
    slope = 1 + each(-0.4, 0.4) * ramp[None, :, None, None] + each(-0.4, 0.4) * ramp[None, None, :, None]
    for i in np.flatnonzero(rng.uniform(size=b) < 0.35):
        x[i] = cv2.blur(x[i], (3, 3))
    noise = rng.standard_normal(x.shape[1:]).astype(np.float32) * each(0, 0.07)
    return normalised(np.clip(x * gain * tint * slope + noise, 0, 1))


class Seen(NamedTuple):
    """Logits of the prototypes for class tokens, float (B, K), and patches, float (B * g * g, K)."""

    cls: torch.Tensor
    patches: torch.Tensor


class Network(torch.nn.Module):
    """The transformer, the token of masked patches, and projection heads for class token and patches."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = VisionTransformer(**MODEL)
        width = MODEL["embed_dim"]
        self.mask = torch.nn.Parameter(torch.zeros(width))
        self.heads = torch.nn.ModuleList(DINOProjectionHead(width, 256, 64, PROTOTYPES) for _ in range(2))

    def forward(self, x: torch.Tensor, offset: np.ndarray, masked: torch.Tensor | None = None) -> Seen:
        """Return the logits of images, float (B, 3, S, S), at positions from ``offset``; ``masked`` is bool (B, g *
        g).
        """
        x = self.vit.patch_embed.proj(x).flatten(2).transpose(1, 2)
        if masked is not None:
            x = torch.where(masked[..., None], self.mask.to(x.dtype), x)
        x = self.vit.norm(self.vit.blocks(placed(self.vit, x, offset)))
        return Seen(self.heads[0](x[:, 0]).float(), self.heads[1](x[:, 1:].flatten(0, 1)).float())


def targets(views: list[Seen], turn: Turn) -> torch.Tensor:
    """Return the target of the student at the patches of both views: the teacher's assignment of the same place in the
    other view, float (2 * B * g * g, K)."""
    assigned = sinkhorn(torch.cat([v.patches for v in views]), iterations=3, epsilon=TEACHER_TEMP)
    first, second = assigned.view(2, IMAGES, GRID, GRID, PROTOTYPES)
    return torch.stack([turn.back(second, (1, 2)), turn.there(first, (1, 2))]).reshape(-1, PROTOTYPES)


def step_loss(
    student: Network, teacher: Network, losses: list[DINOLoss], pool: Pool, rng: np.random.RandomState
) -> torch.Tensor:
    """Return the loss of one step on new views."""
    (first, second), turn = draw(pool, rng)
    views = [lit(first, rng), turn.there(lit(second, rng), (2, 3))]
    with torch.no_grad():
        taught = [teacher(x, rng.randint(WHOLE - GRID + 1, size=2)) for x in views]
    chance, image = rng.uniform(size=(2, IMAGES, GRID * GRID)), rng.randint(2, size=(2, IMAGES, 1))
    masked = torch.from_numpy(chance < MASKED * image)
    seen = [student(x, rng.randint(WHOLE - GRID + 1, size=2), m) for x, m in zip(views, masked, strict=True)]
    with torch.autocast("cpu", enabled=False):
        with torch.no_grad():
            target = targets(taught, turn)
        found = (torch.cat([v.patches for v in seen]) / STUDENT_TEMP).log_softmax(-1)
        patches = -(target * found).sum(-1).mean()
        return patches + CLASS_TOKEN_WEIGHT * losses[0]([v.cls for v in taught], [v.cls for v in seen])


PLAN = Plan("dinov2", MODEL, Network, 1, PROTOTYPES, (TEACHER_TEMP, STUDENT_TEMP), MOMENTUM, LEARNING_RATE, step_loss)

if __name__ == "__main__":
    command_line(__doc__, 1500, partial(train, PLAN), partial(export, PLAN))
