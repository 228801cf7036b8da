"""The frozen features of a training, computed once: one file per part of the images or captions, kept in the cache.

A part's file is written whole or not at all and is named by what it depends on, so that a pass that was interrupted
goes on where it stopped, and a training on other settings of the loss computes nothing again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ovbench.backbones.dino import IMAGENET_MEAN, IMAGENET_STD
from ovbench.backbones.dinov2 import Dinov2Vision
from ovbench.backbones.text import TextEncoder
from ovbench.data.decode import read_image
from ovbench.methods.talk2dino import WindowFeatures, image_embeddings
from ovbench.places import cache_root
from ovbench.results.store import write_bytes
from ovbench.train.captions import Pairs

IMAGES_A_PART, CAPTIONS_A_PART = 256, 4096
IMAGES_AT_ONCE = 16
Advance = Callable[[int], None]


class Part(NamedTuple):
    """Rows ``start`` to ``stop`` of a table, and the file that holds them."""

    start: int
    stop: int
    path: Path


class Rows:
    """A table f[n, ...] that lies in several files, read where it is needed."""

    def __init__(self, parts: Sequence[Part]):
        self.starts = torch.tensor([part.start for part in parts])
        self.tensors = [_read(part.path, "features") for part in parts]
        self.hashes = [_read(part.path, "sha256") for part in parts]
        self.shape = tuple(self.tensors[0].shape[1:])

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The rows i64[b], f[b, ...]."""
        parts = torch.searchsorted(self.starts, rows, right=True) - 1
        within = rows - self.starts[parts]
        return torch.stack([self.tensors[p][r] for p, r in zip(parts.tolist(), within.tolist(), strict=True)])

    def sha256(self) -> list[str]:
        """Hash of what each row was made from."""
        return [row.numpy().tobytes().hex() for table in self.hashes for row in table]


def plan_images(pairs: Pairs, tower_sha256: str, side: int, attn_scale: float) -> list[Part]:
    """Where the image embeddings are or will be. A file's name, size and time of change stand for its content."""
    marks = []
    for name in pairs.names:
        status = (pairs.folder / name).stat()
        marks.append([name, status.st_size, status.st_mtime_ns])
    return _plan("images", marks, IMAGES_A_PART, [tower_sha256, side, attn_scale])


def plan_captions(pairs: Pairs, clip_sha256: str) -> list[Part]:
    return _plan("captions", pairs.texts, CAPTIONS_A_PART, [clip_sha256])


def _plan(kind: str, marks: Sequence[object], size: int, settings: list[object]) -> list[Part]:
    folder = cache_root() / "features"
    parts = []
    for start in range(0, len(marks), size):
        chunk = list(marks[start : start + size])
        key = hashlib.sha256(json.dumps([kind, settings, chunk]).encode()).hexdigest()
        parts.append(Part(start, start + len(chunk), folder / f"{kind}-{key[:32]}.safetensors"))
    return parts


def absent(parts: Sequence[Part]) -> list[Part]:
    """The parts that have yet to be computed; a damaged file counts as one."""
    return [part for part in parts if not _whole(part)]


def _whole(part: Part) -> bool:
    try:
        with safe_open(part.path, "pt") as file:
            return file.get_slice("features").get_shape()[0] == part.stop - part.start
    except (OSError, SafetensorError):
        return False


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def compute_images(
    pairs: Pairs, parts: Sequence[Part], tower: Dinov2Vision, side: int, attn_scale: float,
    *, workers: int = 0, advance: Advance = lambda count: None,
) -> None:  # fmt: skip
    """Write the image embeddings f[n, m, c] of parts; ``advance`` is told how many images were added."""
    device = next(tower.parameters()).device
    for part in parts:
        files = ImageFiles([pairs.folder / name for name in pairs.names[part.start : part.stop]], side)
        features, hashes = [], []
        for batch in DataLoader(files, batch_size=IMAGES_AT_ONCE, num_workers=workers):
            features.append(embed_images(tower, batch["image"].to(device), attn_scale).cpu())
            hashes.append(batch["sha256"])
            advance(len(batch["image"]))
        write_bytes(part.path, save({"features": torch.cat(features), "sha256": torch.cat(hashes)}))


def compute_captions(
    pairs: Pairs, parts: Sequence[Part], encoder: TextEncoder, *, advance: Advance = lambda count: None
) -> None:
    """Write the text features f[n, d], as the tower yields them, of parts."""
    for part in parts:
        texts = pairs.texts[part.start : part.stop]
        hashes = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts]
        features = encoder.encode(texts).cpu()
        write_bytes(part.path, save({"features": features, "sha256": torch.from_numpy(np.stack(hashes))}))
        advance(len(texts))


@torch.inference_mode()
def embed_images(tower: Dinov2Vision, images: Tensor, attn_scale: float) -> Tensor:
    """The embeddings f[b, m, c] that the heads offer of normalised images f[b, 3, side, side]."""
    x, looks, grid = tower(images)
    return image_embeddings(WindowFeatures(x, attn_scale * looks, grid)).float()


class ImageFiles(Dataset):
    """Image files as the tower takes them: short side resized to ``side`` (bicubic, antialiased), the middle square cut
    out, normalised. An item is {"image": f[3, side, side], "sha256": u8[32] of the file}."""

    def __init__(self, paths: Sequence[Path], side: int):
        self.paths = paths
        self.prepare = preparation(side)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        path = self.paths[index]
        image = self.prepare(Image.fromarray(read_image(path)))
        digest = hashlib.sha256(path.read_bytes()).digest()
        return {"image": image, "sha256": torch.frombuffer(bytearray(digest), dtype=torch.uint8)}


def preparation(side: int, crop: int | None = None) -> Callable[[Image.Image], Tensor]:
    """From a PIL image to f[3, crop, crop]; ``crop`` is ``side`` unless given."""
    return v2.Compose(
        [
            v2.Resize(side, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(crop or side),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
