"""Label images with the user's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ovbench.config.load import Cell
from ovbench.inference.own_classes import NOTHING
from ovbench.utils.errors import UsageError
from ovbench.utils.images import resize_image

if TYPE_CHECKING:
    from ovbench.inference.pipeline import Pipeline

MEGAPIXELS = 2.0  # default size at which region maps and PAMR work


@dataclass(frozen=True)
class LabelledImage:
    """The labels of an image.

    Attributes:
        image: uint8 (H, W, 3), RGB, upright.
        labels: uint16 (H, W), indices into ``names``.
        names: Class names; the last one may be `NOTHING`.
        orientation: EXIF orientation tag of the file, 1 to 8.
        confidence: float32 (H, W), probability of the best class, or None.
        scores: float16 (C, h, w), class probabilities at the size of the merged windows, or None.
    """

    image: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    orientation: int = 1
    confidence: np.ndarray | None = None
    scores: np.ndarray | None = None

    def pixels(self) -> np.ndarray:
        """Return the number of pixels of each class, int64 (C,)."""
        return np.bincount(self.labels.ravel(), minlength=len(self.names))


def fractions(names: Sequence[str], pixels: np.ndarray) -> list[dict[str, Any]]:
    """Return the fraction of the pixels of each class."""
    total = max(int(pixels.sum()), 1)
    return [{"class": name, "share": float(count / total)} for name, count in zip(names, pixels, strict=True)]


def why_reduced(cell: Cell) -> str:
    """Return why large images are labelled at a reduced size, "" if they are not: a step whose memory is large."""
    if cell.regions:
        return f"the regions of {cell.regions['source']}"
    return "PAMR" if cell.protocol.refine == "pamr" else ""


class Labeller:
    """Labels images with one vocabulary.

    Args:
        pipeline: The method with its networks, on a device.
        names: Class names.
        megapixels: Larger images are labelled at this size, and their label maps enlarged, if the method has a step
            that needs much memory (`why_reduced`); 0: never.
        nothing: Pixels whose best class has a lower probability are of an additional class, `NOTHING`; 0: no pixel.
        confidence: Whether to keep the probability of the best class.
        scores: Whether to keep the class probabilities.

    Raises:
        UsageError: If probabilities are wanted, and the segmentor of a third party has only labels.
    """

    def __init__(
        self, pipeline: Pipeline, names: Sequence[str], *, megapixels: float = MEGAPIXELS, nothing: float = 0.0,
        confidence: bool = False, scores: bool = False,
    ):  # fmt: skip
        self.pipeline, self.nothing, self.keeps_confidence, self.keeps_scores = pipeline, nothing, confidence, scores
        self.names = (*names, NOTHING) if nothing else tuple(names)
        self.limit = megapixels * 1e6 if why_reduced(pipeline.cell) else 0
        self.listens = bool(nothing or confidence or scores)
        if self.listens and not hasattr(pipeline.predictor, "maps"):
            raise UsageError(
                f"{pipeline.cell.method} gives labels only, no probabilities", fix="leave out scores and thresholds"
            )

    def label(self, image: np.ndarray, path: Path, orientation: int = 1) -> LabelledImage:
        """Label an image.

        Args:
            image: uint8 (H, W, 3), RGB, upright.
            path: Its file, for region sources that look maps up by file name.
            orientation: EXIF orientation tag of the file.

        Raises:
            InputError: If the image cannot be labelled.
            MethodError: If the method failed.
        """
        from ovbench.methods.method_errors import blamed

        full = image.shape[:2]
        small = _reduced(image, self.limit)
        with blamed(self.pipeline.method):
            labels, noted = self._labels(small, image, path)
        labels = _enlarged(labels, full)
        confidence = scores = None
        if noted is not None:
            confidence = _enlarged(noted.confidence(), full)
            scores = noted.scores() if self.keeps_scores else None
            if self.nothing:
                labels[confidence < self.nothing] = len(self.names) - 1
        kept = confidence if self.keeps_confidence else None
        return LabelledImage(image, labels, self.names, orientation, kept, scores)

    def _labels(self, small: np.ndarray, image: np.ndarray, path: Path) -> tuple[np.ndarray, Any]:
        if not self.listens and small is image:
            return self.pipeline.label(image, path), None
        from ovbench.inference.confidence import Confidence
        from ovbench.methods.base import no_note

        predictor = self.pipeline.predictor
        noted = Confidence(predictor, scores=self.keeps_scores) if self.listens else None
        regions = self._regions(small, image, path)
        return predictor.label(small, regions, noted or no_note)[0], noted

    def _regions(self, small: np.ndarray, image: np.ndarray, path: Path) -> np.ndarray | None:
        """Return the region map at the reduced size; a map that is read from a file has the original size."""
        maps = self.pipeline.region_maps
        if small is image or maps is None or maps.file(path) is None:
            return self.pipeline.regions(small, path)
        from ovbench.regions.ids import resized_ids

        return resized_ids(self.pipeline.regions(image, path), small.shape[:2])


def _reduced(image: np.ndarray, limit: float) -> np.ndarray:
    """Return an image with at most ``limit`` pixels (0: any number)."""
    height, width = image.shape[:2]
    if not limit or height * width <= limit:
        return image
    factor = (limit / (height * width)) ** 0.5
    return resize_image(image, (max(int(height * factor), 1), max(int(width * factor), 1)), "opencv-area")


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize labels or probabilities (h, w) by nearest neighbour."""
    if values.shape == size:
        return values

    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
