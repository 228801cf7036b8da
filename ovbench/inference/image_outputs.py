"""Write the outputs of a labelled image: overlay, label map, masks, COCO JSON, scores."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovbench.data.card import Card
from ovbench.data.coco_masks import encode_classes
from ovbench.data.image_paths import SOFTWARE, NamedImage, is_output
from ovbench.data.server_layout import class_values, server_layout
from ovbench.inference.label_files import classes_of, write_label_png, write_png
from ovbench.inference.label_image import LabelledImage
from ovbench.inference.overlay import OPACITY, overlay
from ovbench.inference.own_classes import NOTHING
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json, replacing, write_json

ENDINGS = {  # the end of the name of a file of one image
    "overlay": "-overlay.png", "labels": "-labels.png", "masks": "-masks", "scores": "-scores.npz",
    "confidence": "-confidence.png",
}  # fmt: skip
COCO = "coco.json"


class Outputs:
    """The files of labelled images below a folder.

    Args:
        folder: The folder.
        saved: What to save: keys of `ENDINGS`, "coco" or "server".
        names: Class names.
        card: The card whose test server gets label maps, for "server".
        opacity: Opacity of the overlay's colours.
        outline: Whether the overlay has outlines.
    """

    def __init__(
        self, folder: Path, saved: Sequence[str], names: Sequence[str], *, card: Card | None = None,
        opacity: float = OPACITY, outline: bool = True,
    ):  # fmt: skip
        self.folder, self.saved, self.names = folder, tuple(dict.fromkeys(saved)), tuple(names)
        self.draw = functools.partial(overlay, opacity=opacity, outline=outline)
        self.nothing = len(names) - 1 if names[-1] == NOTHING else None
        self.server = server_layout(card) if card is not None and "server" in saved else None
        self.values = None if card is None or self.server is None else class_values(card, self.server.encoding)
        self.coco = CocoOutput(folder / COCO, [name for name in names if name != NOTHING]) if "coco" in saved else None

    def paths(self, image: NamedImage) -> dict[str, Path]:
        """Return the file or folder of each output of an image."""
        own = {what: self.folder / f"{image.name}{ENDINGS[what]}" for what in self.saved if what in ENDINGS}
        if self.server:
            own["server"] = self.folder / "server" / self.server.file_name(image.name)
        return own | ({"coco": self.coco.path} if self.coco else {})

    def existing(self, image: NamedImage) -> list[Path]:
        """Return the outputs of an image that exist."""
        own = [path for what, path in self.paths(image).items() if what != "coco" and path.exists()]
        return own + ([self.coco.path] if self.coco and self.coco.earlier(image) else [])

    def is_complete(self, image: NamedImage) -> bool:
        """Return whether all outputs of an image exist.

        Raises:
            InputError: If its label map or the COCO file has other classes.
        """
        labels = self.paths(image).get("labels")
        other = labels is not None and labels.exists() and classes_of(labels) != list(self.names)
        if other or (self.coco and self.coco.has_other_classes):
            where = str(labels if other else self.folder / COCO)
            raise InputError("the output has other classes", where=where, fix="choose another --out")
        return len(self.existing(image)) == len(self.saved)

    def save(self, image: NamedImage, found: LabelledImage) -> None:
        """Write the outputs of an image.

        Args:
            image: The image file.
            found: Its labels.
        """
        paths = self.paths(image)
        turned = {} if found.orientation == 1 else {"orientation": f"upright; the file has tag {found.orientation}"}
        texts = {"Software": SOFTWARE, **turned}
        if "overlay" in paths:
            picture = self.draw(found.image, found.labels, self.names, unpainted=self.nothing)
            write_png(paths["overlay"], picture, texts)
        if "labels" in paths:
            write_label_png(paths["labels"], found.labels, self.names, texts)
        if "masks" in paths:
            self._write_masks(paths["masks"], found.labels, texts)
        if "scores" in paths:
            with replacing(paths["scores"]) as temporary, temporary.open("wb") as file:
                np.savez_compressed(
                    file, scores=found.scores, confidence=found.confidence.astype(np.float16),
                    classes=np.array(self.names[: len(found.scores)]),
                )  # fmt: skip
        if "confidence" in paths:
            grey = np.rint(found.confidence * 255).astype(np.uint8)
            write_png(paths["confidence"], Image.fromarray(grey), texts)
        if self.values is not None:
            write_png(paths["server"], Image.fromarray(self.values[found.labels].astype(np.uint8)), texts)
        if self.coco:
            self.coco.add(image, found.labels)

    def _write_masks(self, folder: Path, labels: np.ndarray, texts: dict[str, str]) -> None:
        """Write a black and white PNG for each class that the image has, and remove those of an earlier run."""
        for earlier in filter(is_output, folder.glob("*.png") if folder.is_dir() else ()):
            earlier.unlink()
        for number in np.flatnonzero(np.bincount(labels.ravel(), minlength=len(self.names))):
            plain = re.sub(r"[^\w.+-]+", "_", self.names[number])[:60].strip("._") or "class"
            mask = Image.fromarray(np.where(labels == number, 255, 0).astype(np.uint8))
            name = json.dumps([self.names[number]])
            write_png(folder / f"{number:03d}-{plain}.png", mask, {**texts, "classes": name})

    def close(self) -> None:
        """Write the COCO file."""
        if self.coco:
            self.coco.write()


class CocoOutput:
    """One COCO file for all images: a run-length mask with area and box for each class of an image.

    Category ids count from 1, as in COCO; the id of a class is its value in the label map plus 1.

    Args:
        path: The file.
        names: Class names.

    Raises:
        InputError: If an earlier file is not of this form.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self.path, self.names = path, list(names)
        self.images: dict[str, dict[str, Any]] = {}
        self.masks: dict[str, list[dict[str, Any]]] = {}
        self.has_other_classes = False
        self._read_earlier()
        self._before = frozenset(self.images)

    def _read_earlier(self) -> None:
        if not self.path.is_file():
            return
        try:
            found = read_json(self.path)
            if [one["name"] for one in found["categories"]] != self.names:
                self.has_other_classes = True
                return
            self.images = {one["file_name"]: one for one in found["images"]}
            files = {one["id"]: one["file_name"] for one in found["images"]}
            for mask in found["annotations"]:
                self.masks.setdefault(files[mask["image_id"]], []).append(mask)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"not a COCO file of this command: {error!r}", where=str(self.path), fix="choose another --out"
            ) from None

    def earlier(self, image: NamedImage) -> bool:
        """Return whether the file had masks of an image, or of other classes, before."""
        return self.has_other_classes or image.shown in self._before

    def add(self, image: NamedImage, labels: np.ndarray) -> None:
        """Add the masks of an image, in place of its earlier ones.

        Args:
            image: The image file.
            labels: (H, W), class indices.
        """
        height, width = labels.shape
        name = image.shown
        self.images[name] = {"file_name": name, "width": width, "height": height}
        found = encode_classes(labels)
        self.masks[name] = [
            {"category_id": number + 1, **found[number], "iscrowd": 0} for number in found if number < len(self.names)
        ]

    def write(self) -> None:
        """Write the file; nothing if there is no image."""
        if not self.images:
            return
        numbered = dict(enumerate(self.images, 1))
        masks = [{"image_id": n, **mask} for n, name in numbered.items() for mask in self.masks.get(name, ())]
        write_json(self.path, {
            "info": {"description": SOFTWARE},
            "images": [{**self.images[name], "id": n} for n, name in numbered.items()],
            "categories": [{"id": n, "name": name} for n, name in enumerate(self.names, 1)],
            "annotations": [{**mask, "image_id": mask["image_id"], "id": n} for n, mask in enumerate(masks, 1)],
        })  # fmt: skip
