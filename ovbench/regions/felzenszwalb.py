"""Felzenszwalb and Huttenlocher's graph-based segmentation (IJCV 2004), through scikit-image."""

from __future__ import annotations

from dataclasses import dataclass

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
