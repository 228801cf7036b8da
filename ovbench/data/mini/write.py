"""The world as files: the validation split as PNG images and labels, and training images with captions."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .captions import describe, shares
from .scene import training_scene, validation_scene
from .stream import Stream

VALIDATION_IMAGES = 100
CAPTIONS_PER_IMAGE = 5


def _save(array: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(array).save(path, compress_level=3)


def _publish(root: Path, fill: Callable[[Path], None]) -> None:
    """Fills a new folder beside `root` and renames it; if another process was faster, its folder stays."""
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        fill(draft)
        draft.chmod(0o755)
        try:
            os.rename(draft, root)
        except OSError:
            if not (root.is_dir() and any(root.iterdir())):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_validation(root: Path) -> None:
    """Writes ``images/val/mini_NNNN.png`` and ``labels/val/mini_NNNN.png`` under `root`.

    `root` appears only when complete; the decoded pixels are the same on every platform. Does nothing if `root` already
    holds files; safe in two processes at once.
    """
    root = Path(root)
    if root.is_dir() and any(root.iterdir()):
        return

    def fill(folder: Path) -> None:
        for kind in ("images", "labels"):
            (folder / kind / "val").mkdir(parents=True)
        for i in range(VALIDATION_IMAGES):
            image, label = validation_scene(i)
            _save(image, folder / "images" / "val" / f"mini_{i:04d}.png")
            _save(label, folder / "labels" / "val" / f"mini_{i:04d}.png")

    _publish(root, fill)


def write_training(root: Path, n: int, seed: int = 0) -> None:
    """Writes `n` training images, ``images/train/*.png``, and their captions as in COCO, ``captions_train.json``.

    Scenes are numbered from `seed`; five captions an image. `root` appears only when complete. Raises FileExistsError
    if it holds files already.
    """
    root = Path(root)
    if root.is_dir() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty")

    def fill(folder: Path) -> None:
        (folder / "images" / "train").mkdir(parents=True)
        images, annotations = [], []
        for i in range(n):
            scene = training_scene(seed + i)
            name = f"mini_train_{seed + i:06d}.png"
            _save(scene.image, folder / "images" / "train" / name)
            height, width = scene.entities.shape
            images.append({"id": i, "file_name": name, "height": height, "width": width})
            stream, share = Stream(seed + i), shares(scene.entities)
            for _ in range(CAPTIONS_PER_IMAGE):
                text = describe(share, stream, least=0.02, most=4).text
                annotations.append({"id": len(annotations), "image_id": i, "caption": text})
        document = {"info": {"description": "mini, training world"}, "images": images, "annotations": annotations}
        (folder / "captions_train.json").write_text(json.dumps(document, indent=1) + "\n")

    _publish(root, fill)
