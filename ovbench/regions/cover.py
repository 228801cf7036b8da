"""Pixels that no mask covers: larger patches of them become regions of their own, the rest joins its neighbours."""

from __future__ import annotations

import numpy as np

MIN_AREA = 64


def uncovered_components(covered: np.ndarray, min_area: int = MIN_AREA) -> np.ndarray:
    """The 4-connected components of the pixels where ``covered`` bool[h, w] is false, numbered from 1 in raster order
    of their first pixel; 0 where covered and in components of fewer than ``min_area`` pixels. i32[h, w]."""
    from scipy import ndimage

    components, count = ndimage.label(~covered)
    area = np.bincount(components.ravel(), minlength=count + 1)
    number = np.zeros(count + 1, np.int32)
    first = np.unique(components, return_index=True)
    large = [c for c in first[0][np.argsort(first[1])] if c and area[c] >= min_area]
    number[large] = np.arange(1, len(large) + 1)
    return number[components]


def nearest_covered(covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the nearest covered pixel, for every pixel of bool[h, w]."""
    from scipy import ndimage

    rows, columns = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return rows, columns


def complete(regions: np.ndarray, min_area: int = MIN_AREA) -> np.ndarray:
    """A region map i[h, w] in which ids below 1 mean "not covered", with every pixel in a region."""
    covered = regions > 0
    if covered.all():
        return regions
    added = uncovered_components(covered, min_area)
    regions = np.where(covered, regions, np.where(added > 0, added + regions.max(), 0))
    covered = regions > 0
    return regions[nearest_covered(covered)] if covered.any() else np.ones_like(regions)
