"""Helpers of the training scripts: a pool of training images of `mini`, drawn once, random crops, learning rate,
checkpoints and command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from ovbench.data.mini.captions import ENTITIES
from ovbench.data.mini.drawing import training_drawing

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EVAL_SHORT_SIDE = 224
WARMUP = 150
_THING_POINTS = 64
_FIRST_THING = 12


class Crop(NamedTuple):
    """An image, uint8 (S, S, 3), RGB, and the fraction of each entity, float64 (entities,)."""

    image: np.ndarray
    shares: np.ndarray


class Pool:
    """Training images in flat memory-mapped arrays: pixels, entity maps, sizes, and some places on things."""

    def __init__(self, folder: Path, scenes: int):
        self._folder = Path(folder)
        if not (self._folder / f"done_{scenes}").exists():
            self._draw(scenes)
        self._pixels = np.load(self._folder / "pixels.npy", mmap_mode="r")
        self._entities = np.load(self._folder / "entities.npy", mmap_mode="r")
        self._sizes = np.load(self._folder / "sizes.npy")
        self._points = np.load(self._folder / "points.npy")
        self._starts = np.concatenate([[0], np.cumsum(self._sizes[:, 0] * self._sizes[:, 1])])

    def __len__(self) -> int:
        return len(self._sizes)

    def _draw(self, scenes: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        pixels, entities, sizes, points = [], [], [], np.full((scenes, _THING_POINTS, 2), -1, np.int32)
        rng = np.random.RandomState(0)
        for i in range(scenes):
            scene = training_drawing(i)
            pixels.append(scene.image.reshape(-1, 3))
            entities.append(scene.entities.ravel())
            sizes.append(scene.entities.shape)
            places = np.argwhere(scene.entities >= _FIRST_THING)
            if len(places):
                points[i] = places[rng.randint(len(places), size=_THING_POINTS)]
        np.save(self._folder / "pixels.npy", np.concatenate(pixels))
        np.save(self._folder / "entities.npy", np.concatenate(entities))
        np.save(self._folder / "sizes.npy", np.array(sizes, np.int64))
        np.save(self._folder / "points.npy", points)
        (self._folder / f"done_{scenes}").touch()

    def scene(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image, uint8 (H, W, 3), and its entity map, uint8 (H, W)."""
        h, w = self._sizes[index]
        span = slice(self._starts[index], self._starts[index + 1])
        return self._pixels[span].reshape(h, w, 3), self._entities[span].reshape(h, w)

    def crop(self, rng: np.random.RandomState, size: int, zoom: tuple[float, float], on_things: float) -> Crop:
        """Return a square crop of a random image, resized to `size` pixels.

        `zoom` is the range of the scale relative to a short side of 224 pixels; with probability `on_things`
        the crop is around a place on a thing.
        """
        index = rng.randint(len(self))
        image, entities = self.scene(index)
        h, w = entities.shape
        factor = EVAL_SHORT_SIDE / min(h, w) * np.exp(rng.uniform(np.log(zoom[0]), np.log(zoom[1])))
        side = int(min(max(round(size / factor), 12), h, w))
        point = self._points[index, rng.randint(_THING_POINTS)]
        if point[0] >= 0 and rng.uniform() < on_things:
            top, left = (int(p - side * rng.uniform(0.3, 0.7)) for p in point)
        else:
            top, left = rng.randint(h - side + 1), rng.randint(w - side + 1)
        top, left = min(max(top, 0), h - side), min(max(left, 0), w - side)
        box = (slice(top, top + side), slice(left, left + side))
        step = max(side // 32, 1)
        count = np.bincount(entities[box][::step, ::step].ravel(), minlength=ENTITIES)
        pixels = cv2.resize(np.ascontiguousarray(image[box]), (size, size), interpolation=cv2.INTER_LINEAR)
        if rng.randint(2):
            pixels = pixels[:, ::-1]
        return Crop(pixels, count / count.sum())


def jitter(images: np.ndarray, rng: np.random.RandomState, strength: float = 1.0) -> np.ndarray:
    """Change brightness, contrast and tint slightly and add noise: uint8 (B, S, S, 3) to float32 (B, S, S, 3) in
    0..1.
    """
    b = len(images)
    x = images.astype(np.float32) / 255.0
    gain = 1.0 + strength * rng.uniform(-0.2, 0.2, (b, 1, 1, 1))
    tint = 1.0 + strength * rng.uniform(-0.05, 0.05, (b, 1, 1, 3))
    lift = strength * rng.uniform(-0.05, 0.05, (b, 1, 1, 1))
    noise = rng.standard_normal(x.shape[1:]).astype(np.float32) * (0.02 * strength * rng.uniform(0, 1, (b, 1, 1, 1)))
    return np.clip(x * (gain * tint).astype(np.float32) + (lift + noise).astype(np.float32), 0.0, 1.0)


def rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: linear warm-up, then a cosine to 2 % of the peak."""
    if step < WARMUP:
        return peak * (step + 1) / WARMUP
    t = (step - WARMUP) / max(steps - WARMUP, 1)
    return float(peak * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(t, 1.0)))))


def save(path: Path, state: dict) -> None:
    """Write a checkpoint to a temporary file and rename it."""
    draft = path.with_suffix(".tmp")
    torch.save(state, draft)
    draft.replace(path)


def command_line(
    description: str | None, steps: int, train: Callable[[argparse.Namespace], None],
    export: Callable[[argparse.Namespace], None],
) -> None:  # fmt: skip
    """Train, or with --export write the trained network."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the pool and the checkpoint")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--export", type=Path, help="folder to write the checkpoint's weights to, instead of training")
    options = parser.parse_args()
    (export if options.export else train)(options)
