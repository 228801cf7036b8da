"""Felzenszwalb's graph-based segmentation, through scikit-image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovbench.regions.base import RegionSource
from ovbench.utils.typed import FromOne, FromZero, NotBelowZero

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Felzenszwalb(RegionSource):
    """Segment by minimum spanning trees: every pixel has a region, ids from 1.

    Paper: Felzenszwalb and Huttenlocher, IJCV 2004.

    Attributes:
        scale: Larger values give larger regions.
        sigma: Gaussian smoothing in pixels.
        min_size: Smaller regions, in pixels, are merged with a neighbour.
    """

    scale: NotBelowZero = 100.0
    sigma: NotBelowZero = 1.0
    min_size: FromZero = 100

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        """Return the region map int32 (H, W) of an image uint8 (H, W, 3)."""
        from skimage.segmentation import felzenszwalb

        regions = felzenszwalb(image / 255.0, scale=self.scale, sigma=self.sigma, min_size=self.min_size)
        return regions.astype("int32") + 1


@dataclass(frozen=True)
class FelzenszwalbResized(Felzenszwalb):
    """Segment the resized image as `Felzenszwalb` does, and resize the map to the original size by nearest neighbour.

    This is the source of ReME; it follows aimagelab/freeda.

    Attributes:
        short_side: Short side of the resized image in pixels.
        long_side: Largest long side of the resized image in pixels.
    """

    short_side: FromOne = 448
    long_side: FromOne = 2048

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        """Return the region map int32 (H, W) of an image uint8 (H, W, 3)."""
        import cv2

        from ovbench.utils.images import resize_image, resized_size

        h, w = image.shape[:2]
        regions = super().__call__(resize_image(image, resized_size((h, w), self.short_side, self.long_side)))
        return cv2.resize(regions, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
