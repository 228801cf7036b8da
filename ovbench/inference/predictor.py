"""Label images one by one, or from batches with windows of several images."""

from __future__ import annotations

import numpy as np

from ovbench.inference.batching import WindowBatcher
from ovbench.inference.steps import Steps
from ovbench.methods.base import Note, WindowedImage, no_note


class Predictor(Steps):
    """A method with its protocol that labels images, for one or several vocabularies.

    `label` labels a single image, and the shape of its batches depends on this image only. `batcher` labels many images
    on the same path, in batches that may have windows of several images.
    """

    def batcher(self, size: int = 0) -> WindowBatcher:
        """Return a batcher, which labels the images that are added.

        Args:
            size: Number of windows of several images in a batch; 0: each image has its own batches.
        """
        return WindowBatcher(self, size)

    def label(
        self, image: np.ndarray, regions: np.ndarray | None = None, note: Note = no_note
    ) -> list[np.ndarray]:  # fmt: skip
        """Label an image.

        Args:
            image: uint8 (H, W, 3), RGB, at its original size.
            regions: int32 (H, W), the region map, for methods that need one.
            note: Called with intermediate quantities.

        Returns:
            uint16 (H, W), one map per vocabulary.

        Raises:
            InputError: If the image is smaller than a patch.
            ScoreError: If the method fails, memory is too small, or scores are NaN or infinite.
        """
        return self._label(self.prepare(image, regions, note))

    def label_resized(
        self,
        resized: np.ndarray,
        original: tuple[int, int],
        regions: np.ndarray | None = None,
        note: Note = no_note,
        pixels: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Label an image that is already resized by the protocol; see `Steps.windowed` for the arguments.

        Returns:
            uint16 (H, W), one map per vocabulary.
        """
        return self._label(self.windowed(resized, original, regions, note, pixels))

    def _label(self, prepared: WindowedImage) -> list[np.ndarray]:
        return WindowBatcher(self).label(prepared)
