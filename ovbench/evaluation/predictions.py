"""Keep the label maps of a run in files, which `ovbench score` and other programs read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovbench.data.card import Card
from ovbench.data.dataset import Sample
from ovbench.data.server_layout import class_values, server_layout
from ovbench.inference.visualize import Pictures
from ovbench.utils.files import write_bytes, write_json

FORMATS = {"png": ".png", "npz": ".npz", "confidence": ".npz", "coco": ".json", "server": ".png"}
FOLDER = "predictions"  # in the folder of the ledger
ABOUT = "predictions.json"  # method, dataset, classes and encoding of the maps in a folder
SOFTWARE = "ovbench eval"
VOID_8, VOID_16 = 255, 65535  # pixels without a class, in files of 8 and 16 bits


def predictions_folder(ledger: Path, form: str) -> Path:
    """Return the folder of the label maps of a ledger in a format."""
    return ledger / FOLDER / form


class SavedPredictions:
    """The label maps of a cell, one file per image; the bytes depend on the labels only.

    Args:
        folder: Folder of the files.
        form: A key of `FORMATS`: "png" has class indices and class names, "npz" the array "labels", "confidence" also
            the array "confidence", "coco" a list of run-length masks, "server" what the test server of the benchmark
            wants.
        card: The card of the dataset.
        method: Name of the method.
    """

    def __init__(self, folder: Path, form: str, card: Card, method: str):
        self.folder, self.form, self.card, self.method = folder, form, card, method
        self.server = server_layout(card) if form == "server" else None
        # the value 0 of both test servers is no class
        self.values = np.append(class_values(card, self.server.encoding), 0) if self.server else None
        self.void = VOID_8 if len(card.classes) <= VOID_8 else VOID_16

    def path(self, image_id: str) -> Path:
        """Return the file of an image."""
        if self.server:
            return self.folder / self.server.file_name(image_id)
        return self.folder / f"{image_id}{FORMATS[self.form]}"

    def is_missing(self, number: int, image_id: str) -> bool:
        """Return whether an image has no file."""
        return not self.path(image_id).exists()

    def save(self, number: int, sample: Sample, predicted: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Write the label map of an image.

        Args:
            number: Number of the image in the split.
            sample: The image.
            predicted: uint16 (H, W), class indices.
            confidence: float32 (H, W), probability of the most probable class, for the form "confidence".
        """
        classes, about = len(self.card.classes), self.folder / ABOUT
        if not about.exists():
            write_json(about, self.about())
        path = self.path(sample.id)
        outside = predicted >= classes  # the label of a distractor
        predicted = np.where(outside, classes if self.server else self.void, predicted) if outside.any() else predicted
        if self.form == "coco":
            masks = _coco(sample.id, predicted, classes)
            write_bytes(path, (json.dumps(masks, separators=(",", ":")) + "\n").encode())
        elif self.form in ("npz", "confidence"):
            arrays: dict[str, Any] = {"labels": predicted.astype(np.uint8 if self.void == VOID_8 else np.uint16)}
            if self.form == "confidence":
                assert confidence is not None
                arrays["confidence"] = confidence.astype(np.float16)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            write_bytes(path, buffer.getvalue())
        else:
            self._write_png(path, predicted)

    def _write_png(self, path: Path, predicted: np.ndarray) -> None:

        from ovbench.inference.label_files import write_label_png, write_png

        if self.values is None:
            write_label_png(path, predicted, self.card.classes, {"Software": SOFTWARE})
        else:
            write_png(path, Image.fromarray(self.values[predicted].astype(np.uint8)), {})

    def about(self) -> dict[str, Any]:
        """Return what `ovbench score` must know of the files."""
        return {
            "method": self.method, "dataset": self.card.name, "format": self.form,
            "encoding": self.server.encoding if self.server else "index", "classes": list(self.card.classes),
        }  # fmt: skip


def _coco(image_id: str, predicted: np.ndarray, classes: int) -> list[dict[str, Any]]:
    from ovbench.data.coco_masks import encode_classes

    found = encode_classes(predicted)
    return [{"image_id": image_id, "category_id": value, **found[value]} for value in found if value < classes]


class SavedFiles:
    """All files that a run writes for an image besides its counts.

    Args:
        *parts: Overlays, label maps; each with ``is_missing`` and ``save``.
    """

    def __init__(self, *parts: Pictures | SavedPredictions):
        self.parts = parts

    def is_missing(self, number: int, image_id: str) -> bool:
        """Return whether an image lacks a file."""
        return any(part.is_missing(number, image_id) for part in self.parts)

    def save(self, number: int, sample: Sample, predicted: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Write the files of an image that are missing or of an earlier state of its files."""
        for part in self.parts:
            part.save(number, sample, predicted, confidence)


def saved_files(ledger: Path, card: Card, method: str, show: int = 0, form: str | None = None) -> SavedFiles:
    """Return the files that a run writes for its images.

    Args:
        ledger: Folder of the ledger.
        card: The card of the dataset.
        method: Name of the method.
        show: Number of overlays.
        form: Format of the label maps; None keeps none.
    """
    pictures = Pictures(ledger, card.classes, show)
    if form is None:
        return SavedFiles(pictures)
    return SavedFiles(pictures, SavedPredictions(predictions_folder(ledger, form), form, card, method))
