"""SLIC superpixels (Achanta et al., TPAMI 2012), through scikit-image: compact regions of about equal size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ovbench.regions.base import RegionSource


@dataclass(frozen=True)
class Slic(RegionSource):
    """Every pixel belongs to a region; ids start at 1.

    ``segments``: about how many regions; ``compactness``: weight of position against colour (CIELAB); ``sigma``:
    Gaussian smoothing in pixels.
    """

    segments: int = 100
    compactness: float = 10.0
    sigma: float = 1.0

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        from skimage.segmentation import slic

        regions = slic(image, n_segments=self.segments, compactness=self.compactness, sigma=self.sigma, start_label=1)
        return regions.astype(np.int32)
