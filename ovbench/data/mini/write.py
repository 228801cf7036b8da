"""The world as files: the validation split as PNG images and labels, and training images with captions."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ovbench.utils.files import remove_leftovers, temporary_path

from . import world
from .captions import describe, shares
from .scene import Scene, training_scene, validation_scene
from .stream import Stream

VALIDATION_IMAGES = 100
CAPTIONS_PER_IMAGE = 5


def _save(array: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(array).save(path, compress_level=3)


def _publish(root: Path, fill: Callable[[Path], None]) -> None:
    """Fills a new folder beside `root` and renames it; if another process was faster, its folder stays."""
    root.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(root.parent)
    draft = temporary_path(root)
    try:
        draft.mkdir()
        fill(draft)
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


def _cut_out(scene: Scene, side: int, stream: Stream) -> Scene:
    """A square of a scene, ``side`` pixels wide where the short side of the scene is 224, about a place anywhere or, as
    often, on a thing."""
    h, w = scene.entities.shape
    side = min(side * min(h, w) // 224, h, w)
    places = np.flatnonzero((scene.entities >= len(world.STUFF)) | (stream.integer(0, 1) == 0))
    place = int(places[stream.integer(0, len(places) - 1)]) if len(places) else h * w // 2
    top, left = (min(max(at - side // 2, 0), full - side) for at, full in zip(divmod(place, w), (h, w), strict=True))
    return Scene(*(np.ascontiguousarray(plane[top : top + side, left : left + side]) for plane in scene))


def write_training(root: Path, n: int, seed: int = 0, *, cut: int = 0, cuts: int = 1) -> None:
    """Writes `n` training images, ``images/train/*.png``, and their captions as in COCO, ``captions_train.json``.

    Scenes are numbered from `seed`; five captions an image. With ``cut`` an image is not a scene but a square of one,
    that many pixels wide where the scene's short side is 224: a closer look, at fewer things; ``cuts`` of them a scene.
    `root` appears only when complete. Raises FileExistsError if it holds files already.
    """
    root = Path(root)
    if root.is_dir() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty")

    def fill(folder: Path) -> None:
        (folder / "images" / "train").mkdir(parents=True)
        images, annotations = [], []
        for i in range(n):
            if i % cuts == 0:
                drawn, stream = training_scene(seed + i // cuts), Stream(seed + i // cuts)
            scene = _cut_out(drawn, cut, stream) if cut else drawn
            name = f"mini_train_{seed + i:06d}.png"
            _save(scene.image, folder / "images" / "train" / name)
            height, width = scene.entities.shape
            images.append({"id": i, "file_name": name, "height": height, "width": width})
            share = shares(scene.entities)
            for _ in range(CAPTIONS_PER_IMAGE):
                text = describe(share, stream, least=0.02, most=4).text
                annotations.append({"id": len(annotations), "image_id": i, "caption": text})
        document = {"info": {"description": "mini, training world"}, "images": images, "annotations": annotations}
        (folder / "captions_train.json").write_text(json.dumps(document, indent=1) + "\n")

    _publish(root, fill)
