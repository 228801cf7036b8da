"""Felzenszwalb and Huttenlocher's graph-based segmentation (IJCV 2004), through scikit-image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ovbench.regions.base import RegionSource


@dataclass(frozen=True)
class Felzenszwalb(RegionSource):
    """Every pixel belongs to a region; ids start at 1, so that no region is the "not segmented" one.

    ``scale``: larger means larger regions; ``sigma``: Gaussian smoothing in pixels; ``min_size``: pixels below which a
    region is merged with its neighbour. The image is given as 0..1 floats, as scikit-image expects.
    """

    scale: float = 100.0
    sigma: float = 1.0
    min_size: int = 100

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        from skimage.segmentation import felzenszwalb

        regions = felzenszwalb(image / 255.0, scale=self.scale, sigma=self.sigma, min_size=self.min_size)
        return regions.astype(np.int32) + 1


@dataclass(frozen=True)
class FelzenszwalbResized(Felzenszwalb):
    """As ``felzenszwalb``, on the image with its short side at ``short_side`` pixels and its long side at most at
    ``long_side``, as aimagelab/freeda segments; the map is brought back by nearest neighbour. ReME's source."""

    short_side: int = 448
    long_side: int = 2048

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        from ovbench.utils.images import resize_image, resized_size

        h, w = image.shape[:2]
        regions = super().__call__(resize_image(image, resized_size((h, w), self.short_side, self.long_side)))
        return cv2.resize(regions, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
