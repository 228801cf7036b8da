"""SLIC superpixels, through scikit-image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovbench.regions.base import RegionSource
from ovbench.utils.typed import AboveZero, FromOne, NotBelowZero

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Slic(RegionSource):
    """Segment into compact regions of similar size: every pixel has a region, ids from 1.

    Paper: Achanta et al., TPAMI 2012.

    Attributes:
        segments: Approximate number of regions.
        compactness: Weight of position against colour (CIELAB).
        sigma: Gaussian smoothing in pixels.
    """

    segments: FromOne = 100
    compactness: AboveZero = 10.0
    sigma: NotBelowZero = 1.0

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        """Return the region map int32 (H, W) of an image uint8 (H, W, 3)."""
        from skimage.segmentation import slic

        regions = slic(image, n_segments=self.segments, compactness=self.compactness, sigma=self.sigma, start_label=1)
        return regions.astype("int32")
