"""Train the small DINO of `mini` by self-distillation on its training images, without text and labels.

Every image gives one large view. Windows of it are also shown as small views (shifted, scaled, rotated, with other
light). Student and teacher are compared with lightly's DINOLoss on the class token (large and small view), and on the
query + key features of the last block, averaged over the window in the large view and over the small view (for the
student also at single patches). The second loss makes patches of the same material similar. Another loss separates
windows of different images. The run is short, because this loss would in the end also separate patches of one material.

    python scripts/train_mini/dino.py --work /tmp/mini --steps 1200
    python scripts/train_mini/dino.py --work /tmp/mini --export ovbench/assets/mini
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from distill import Plan, export, normalised, placed, train
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from pool import EVAL_SHORT_SIDE, Pool, command_line, jitter
from timm.models.vision_transformer import VisionTransformer

MODEL = {"img_size": 112, "patch_size": 8, "embed_dim": 96, "depth": 5, "num_heads": 3, "num_classes": 0}
IMAGES, WINDOWS, LARGE, SMALL, PATCH = 32, 4, 96, 32, 8
PROTOTYPES, TEACHER_TEMP, STUDENT_TEMP = 512, 0.05, 0.1
MOMENTUM = (0.994, 0.9995)
LEARNING_RATE = 6e-4
CLASS_TOKEN_WEIGHT, CROWDING_WEIGHT = 0.5, 0.25


class Views(NamedTuple):
    """Large views, float (B, 3, 96, 96), small ones, float (B * K, 3, 32, 32), and the first patch of each window."""

    large: torch.Tensor
    small: torch.Tensor
    corner: torch.Tensor


class Features(NamedTuple):
    """For each window: class token, mean of query + key, and query + key at a random patch, each float (M, C)."""

    cls: torch.Tensor
    mean: torch.Tensor
    patch: torch.Tensor


def draw(pool: Pool, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return uint8 pixels of the large and the small views, and the corners."""
    large, small = np.empty((IMAGES, LARGE, LARGE, 3), np.uint8), np.empty((IMAGES, WINDOWS, SMALL, SMALL, 3), np.uint8)
    corner = rng.randint((LARGE - SMALL) // PATCH + 1, size=(IMAGES, WINDOWS, 2))
    for i in range(IMAGES):
        image, _ = pool.scene(rng.randint(len(pool)))
        h, w = image.shape[:2]
        factor = EVAL_SHORT_SIDE / min(h, w) * rng.uniform(0.75, 1.3)
        side = min(int(LARGE / factor), h, w)
        top, left = rng.randint(h - side + 1), rng.randint(w - side + 1)
        large[i] = cv2.resize(np.ascontiguousarray(image[top : top + side, left : left + side]), (LARGE, LARGE))
        for k in range(WINDOWS):
            extent = side * SMALL / LARGE * rng.uniform(0.8, 1.2)
            y = top + side * corner[i, k, 0] * PATCH / LARGE + extent * rng.uniform(-0.25, 0.25)
            x = left + side * corner[i, k, 1] * PATCH / LARGE + extent * rng.uniform(-0.25, 0.25)
            extent = max(int(extent), 8)
            y, x = min(max(int(y), 0), h - extent), min(max(int(x), 0), w - extent)
            view = cv2.resize(np.ascontiguousarray(image[y : y + extent, x : x + extent]), (SMALL, SMALL))
            view = np.rot90(view, rng.randint(4))
            small[i, k] = view[:, ::-1] if rng.randint(2) else view
    return large, small.reshape(-1, SMALL, SMALL, 3), corner


def tensors(large: np.ndarray, small: np.ndarray, corner: np.ndarray, rng: np.random.RandomState) -> Views:
    """Return the views, each with other light."""
    return Views(*(normalised(jitter(x, rng)) for x in (large, small)), torch.from_numpy(corner))


def tokens(vit: VisionTransformer, x: torch.Tensor, offset: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return class tokens, float (B, C), and query + key of patches, float (B, g, g, C), at positions from `offset`."""
    x = vit.patch_embed.proj(x)
    b, c, g, _ = x.shape
    x = placed(vit, x.flatten(2).transpose(1, 2), offset)
    for block in vit.blocks[:-1]:
        x = block(x)
    last = vit.blocks[-1]
    q, k, _ = last.attn.qkv(last.norm1(x))[:, 1:].chunk(3, dim=-1)
    return vit.norm(last(x))[:, 0], (q + k).view(b, g, g, c)


def features(vit: VisionTransformer, views: Views, rng: np.random.RandomState) -> tuple[Features, Features]:
    """Return the features of every window in the large and in the small views."""
    n = SMALL // PATCH
    whole = MODEL["img_size"] // PATCH
    cls_large, large = tokens(vit, views.large, rng.randint(whole - LARGE // PATCH + 1, size=2))
    cls_small, small = tokens(vit, views.small, rng.randint(whole - n + 1, size=2))
    b, k, _ = views.corner.shape
    span = torch.arange(n)
    rows, columns = views.corner[..., 0, None] + span, views.corner[..., 1, None] + span
    inside = large[torch.arange(b)[:, None, None, None], rows[..., :, None], columns[..., None, :]].flatten(0, 1)
    patch = rng.randint(n * n)
    seen = [
        Features(c, m.flatten(1, 2).mean(1), m.flatten(1, 2)[:, patch])
        for c, m in ((cls_large.repeat_interleave(k, 0), inside), (cls_small, small))
    ]
    return seen[0], seen[1]


class Student(torch.nn.Module):
    """The transformer and its two projection heads: for class tokens and for query + key features."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = VisionTransformer(**MODEL)
        width = MODEL["embed_dim"]
        self.heads = torch.nn.ModuleList(DINOProjectionHead(width, 256, 64, PROTOTYPES) for _ in range(2))


def crowding(f: torch.Tensor) -> torch.Tensor:
    """Return the similarity of features, float (B * K, C), of different images: log of the mean of exp(4 cosine).

    This is the uniformity loss of Wang and Isola (ICML 2020) with t = 2, up to a constant.
    """
    f = F.normalize(f, dim=-1)
    image = torch.arange(len(f)) // WINDOWS
    other = image[:, None] != image[None]
    return torch.logsumexp(4 * (f @ f.T)[other], dim=0) - math.log(int(other.sum()))


def step_loss(
    student: Student, teacher: Student, losses: list[DINOLoss], pool: Pool, rng: np.random.RandomState
) -> torch.Tensor:
    """Return the loss of one step on new views."""
    pixels = draw(pool, rng)
    with torch.no_grad():
        t_large, t_small = features(teacher.vit, tensors(*pixels, rng), rng)
        t_cls = [teacher.heads[0](t_large.cls).float()]
        t_mean = [teacher.heads[1](f.mean).float() for f in (t_large, t_small)]
    s_large, s_small = features(student.vit, tensors(*pixels, rng), rng)
    # DINOLoss skips pairs with equal position: the class token of the large view is compared only with the small view
    s_cls = [student.heads[0](f.cls).float() for f in (s_large, s_small)]
    s_mean = [student.heads[1](f).float() for f in (s_large.mean, s_small.mean, s_large.patch, s_small.patch)]
    with torch.autocast("cpu", enabled=False):
        distilled = CLASS_TOKEN_WEIGHT * losses[0](t_cls, s_cls) + losses[1](t_mean, s_mean)
        return distilled + CROWDING_WEIGHT * crowding(s_large.mean.float())


PLAN = Plan("dino", MODEL, Student, 2, PROTOTYPES, (TEACHER_TEMP, STUDENT_TEMP), MOMENTUM, LEARNING_RATE, step_loss)

if __name__ == "__main__":
    command_line(__doc__, 1200, partial(train, PLAN), partial(export, PLAN))
