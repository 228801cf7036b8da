"""Complete region maps: large uncovered areas become regions, other pixels join the nearest region."""

from __future__ import annotations

import numpy as np

MIN_AREA = 64  # pixels of the smallest component that becomes a region


def uncovered_components(covered: np.ndarray, min_area: int = MIN_AREA) -> np.ndarray:
    """Number the 4-connected components of the uncovered pixels.

    Args:
        covered: bool (H, W).
        min_area: Fewest pixels of a component.

    Returns:
        int32 (H, W), from 1 in raster order of the first pixel; 0 at covered pixels and in smaller components.
    """
    from scipy import ndimage

    components, count = ndimage.label(~covered)
    area = np.bincount(components.ravel(), minlength=count + 1)
    number = np.zeros(count + 1, np.int32)
    first = np.unique(components, return_index=True)
    large = [c for c in first[0][np.argsort(first[1])] if c and area[c] >= min_area]
    number[large] = np.arange(1, len(large) + 1)
    return number[components]


def nearest_covered(covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of the nearest covered pixel of every pixel.

    Args:
        covered: bool (H, W).

    Returns:
        Two integer arrays (H, W).
    """
    from scipy import ndimage

    rows, columns = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return rows, columns


def complete(regions: np.ndarray, min_area: int = MIN_AREA) -> np.ndarray:
    """Give every uncovered pixel a region.

    Args:
        regions: Integer (H, W); ids below 1 mean "not covered".
        min_area: Fewest pixels of a component that becomes a region.

    Returns:
        Integer (H, W), all ids at least 1.
    """
    covered = regions > 0
    if covered.all():
        return regions
    added = uncovered_components(covered, min_area)
    regions = np.where(covered, regions, np.where(added > 0, added + regions.max(), 0))
    covered = regions > 0
    return regions[nearest_covered(covered)] if covered.any() else np.ones_like(regions)
