"""Features of the frozen backbones, computed once and cached in files of some hundred rows.

A file is written whole or not at all, and its name is a hash of everything that it depends on. So an interrupted
computation resumes, and a training with other settings of the loss computes nothing.
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
from ovbench.methods.talk2dino.method import WindowFeatures, image_embeddings
from ovbench.training.talk2dino.captioned_images import CaptionedImages
from ovbench.utils.files import write_bytes
from ovbench.utils.paths import cache_root

IMAGES_PER_FILE, CAPTIONS_PER_FILE = 256, 4096
BATCH_SIZE = 16
Advance = Callable[[int], None]


class FeatureFile(NamedTuple):
    """Rows ``start`` to ``stop`` of a feature table, and their file."""

    start: int
    stop: int
    path: Path


class FeatureTable:
    """A table, float (N, ...), whose rows are read from several files."""

    def __init__(self, files: Sequence[FeatureFile]):
        self.starts = torch.tensor([file.start for file in files])
        self.tensors = [_read(file.path, "features") for file in files]
        self.hashes = [_read(file.path, "sha256") for file in files]
        self.shape = tuple(self.tensors[0].shape[1:])

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return rows, int64 (B,), as float (B, ...)."""
        files = torch.searchsorted(self.starts, rows, right=True) - 1
        within = rows - self.starts[files]
        return torch.stack([self.tensors[f][r] for f, r in zip(files.tolist(), within.tolist(), strict=True)])

    def sha256(self) -> list[str]:
        """Return for each row the hash of the image file or text that it was computed from."""
        return [row.numpy().tobytes().hex() for table in self.hashes for row in table]


def plan_images(pairs: CaptionedImages, tower_sha256: str, side: int, attn_scale: float) -> list[FeatureFile]:
    """Return the cache files of the image embeddings; name, size and modification time identify an image.

    Args:
        pairs: The images and captions.
        tower_sha256: Hash of the DINO.
        side: Side of the square crops in pixels.
        attn_scale: Factor of the class token's attention logits.
    """
    images = []
    for name in pairs.names:
        status = (pairs.folder / name).stat()
        images.append([name, status.st_size, status.st_mtime_ns])
    return _plan("images", images, IMAGES_PER_FILE, [tower_sha256, side, attn_scale])


def plan_captions(pairs: CaptionedImages, clip_sha256: str) -> list[FeatureFile]:
    """Return the cache files of the text features."""
    return _plan("captions", pairs.texts, CAPTIONS_PER_FILE, [clip_sha256])


def _plan(name: str, items: Sequence[object], size: int, settings: list[object]) -> list[FeatureFile]:
    folder = cache_root() / "features"
    files = []
    for start in range(0, len(items), size):
        chunk = list(items[start : start + size])
        key = hashlib.sha256(json.dumps([name, settings, chunk]).encode()).hexdigest()
        files.append(FeatureFile(start, start + len(chunk), folder / f"{name}-{key[:32]}.safetensors"))
    return files


def missing_files(files: Sequence[FeatureFile]) -> list[FeatureFile]:
    """Return the files that do not exist yet or are damaged."""
    return [file for file in files if not _is_whole(file)]


def _is_whole(file: FeatureFile) -> bool:
    try:
        with safe_open(file.path, "pt") as tensors:
            rows = [tensors.get_slice(name).get_shape()[:1] for name in ("features", "sha256")]
            return rows == [[file.stop - file.start]] * 2
    except (OSError, SafetensorError):
        return False


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as tensors:
        return tensors.get_tensor(name)


def compute_images(
    pairs: CaptionedImages, files: Sequence[FeatureFile], tower: Dinov2Vision, side: int, attn_scale: float,
    *, workers: int = 0, advance: Advance = lambda count: None,
) -> None:  # fmt: skip
    """Compute and write the image embeddings, float (N, heads, C), of some files.

    Args:
        pairs: All images.
        files: The files to write.
        tower: The frozen DINO.
        side: Side of the square crops in pixels.
        attn_scale: Factor of the class token's attention logits.
        workers: Processes that decode images; 0 decodes in this one.
        advance: Called with the number of new images.

    Raises:
        InputError: If an image cannot be read.
    """
    device = next(tower.parameters()).device
    for file in files:
        images = ImageFiles([pairs.folder / name for name in pairs.names[file.start : file.stop]], side)
        features, hashes = [], []
        for batch in DataLoader(images, batch_size=BATCH_SIZE, num_workers=workers):
            features.append(embed_images(tower, batch["image"].to(device), attn_scale).cpu())
            hashes.append(batch["sha256"])
            advance(len(batch["image"]))
        write_bytes(file.path, save({"features": torch.cat(features), "sha256": torch.cat(hashes)}))


def compute_captions(
    pairs: CaptionedImages, files: Sequence[FeatureFile], encoder: TextEncoder,
    *, advance: Advance = lambda count: None,
) -> None:  # fmt: skip
    """Compute and write the text features of some files, float (N, D), not normalised.

    Args:
        pairs: All captions.
        files: The files to write.
        encoder: The text tower of CLIP.
        advance: Called with the number of new captions.
    """
    for file in files:
        texts = pairs.texts[file.start : file.stop]
        hashes = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts]
        features = encoder.encode(texts).cpu()
        write_bytes(file.path, save({"features": features, "sha256": torch.from_numpy(np.stack(hashes))}))
        advance(len(texts))


@torch.inference_mode()
def embed_images(tower: Dinov2Vision, images: Tensor, attn_scale: float) -> Tensor:
    """Return the embeddings, float (B, heads, C), of normalised images, float (B, 3, side, side).

    Args:
        tower: The frozen DINO.
        images: float (B, 3, side, side), normalised.
        attn_scale: Factor of the class token's attention logits.
    """
    x, attention, grid = tower(images)
    return image_embeddings(WindowFeatures(x, attn_scale * attention, grid)).float()


class ImageFiles(Dataset):
    """Images as the tower takes them.

    An item is ``{"image": float (3, side, side), "sha256": uint8 (32,) of the file}``.
    """

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
    """Return the transform from a PIL image to a normalised centre crop, float (3, crop, crop).

    Args:
        side: Length of the resized short side in pixels (bicubic, antialiased).
        crop: Side of the crop in pixels; by default ``side``.
    """
    return v2.Compose(
        [
            v2.Resize(side, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(crop or side),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
