"""Write the world as files: validation images and labels, training images with captions."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.utils.files import fill_folder

from . import world
from .captions import describe, entity_fractions
from .drawing import Drawing, training_drawing, validation_drawing
from .stream import Stream

VALIDATION_IMAGES = 100
CAPTIONS_PER_IMAGE = 5


def _save(array: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(array).save(path, compress_level=3)


def write_validation(root: Path) -> None:
    """Write ``images/val/mini_NNNN.png`` and ``labels/val/mini_NNNN.png``.

    The decoded pixels are the same on every platform. Two processes may write at the same time.

    Args:
        root: The folder; it appears only when it is complete. If it already has files, nothing is written.
    """
    root = Path(root)
    if root.is_dir() and any(root.iterdir()):
        return

    def fill(folder: Path) -> None:
        for kind in ("images", "labels"):
            (folder / kind / "val").mkdir(parents=True)

        def one(i: int) -> None:
            image, label = validation_drawing(i)
            _save(image, folder / "images" / "val" / f"mini_{i:04d}.png")
            _save(label, folder / "labels" / "val" / f"mini_{i:04d}.png")

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy and Pillow release the lock of the interpreter
            list(pool.map(one, range(VALIDATION_IMAGES)))

    fill_folder(root, fill)


def _cut_out(drawing: Drawing, side: int, stream: Stream) -> Drawing:
    """Cut a square out of a drawing, around any pixel or, as often, around a pixel of a thing."""
    h, w = drawing.entities.shape
    side = min(side * min(h, w) // 224, h, w)
    centres = np.flatnonzero((drawing.entities >= len(world.STUFF)) | (stream.integer(0, 1) == 0))
    centre = int(centres[stream.integer(0, len(centres) - 1)]) if len(centres) else h * w // 2
    top, left = (min(max(at - side // 2, 0), full - side) for at, full in zip(divmod(centre, w), (h, w), strict=True))
    return Drawing(*(np.ascontiguousarray(plane[top : top + side, left : left + side]) for plane in drawing))


def write_training(root: Path, n: int, seed: int = 0, *, cut: int = 0, cuts: int = 1) -> None:
    """Write training images and their captions in COCO's format.

    The files are ``images/train/*.png`` and ``captions_train.json``, with five captions per image.

    Args:
        root: The folder; it appears only when it is complete.
        n: Number of images.
        seed: Number of the first drawing.
        cut: If not 0, an image is a square cut out of a drawing: a closer view of fewer things. The side is in pixels
            of a drawing whose short side is 224.
        cuts: Number of squares per drawing.

    Raises:
        FileExistsError: If the folder already has files.
    """
    root = Path(root)
    if root.is_dir() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty")

    def fill(folder: Path) -> None:
        (folder / "images" / "train").mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in range(n):
            if i % cuts == 0:
                whole, stream = training_drawing(seed + i // cuts), Stream(seed + i // cuts)
            drawing = _cut_out(whole, cut, stream) if cut else whole
            name = f"mini_train_{seed + i:06d}.png"
            _save(drawing.image, folder / "images" / "train" / name)
            height, width = drawing.entities.shape
            images.append({"id": i, "file_name": name, "height": height, "width": width})
            fractions = entity_fractions(drawing.entities)
            for _ in range(CAPTIONS_PER_IMAGE):
                text = describe(fractions, stream, least=0.02, most=4).text
                annotations.append({"id": len(annotations), "image_id": i, "caption": text})
        document = {"info": {"description": "mini, training world"}, "images": images, "annotations": annotations}
        (folder / "captions_train.json").write_text(json.dumps(document, indent=1) + "\n")

    fill_folder(root, fill)
