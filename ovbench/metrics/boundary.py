"""Count pixels near boundaries: Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562) of all classes at once."""

from __future__ import annotations

import math

import numpy as np

from ovbench.metrics.confusion import IGNORED
from ovbench.metrics.extra_counts import ExtraCounts, sparse

RATIO = 0.02  # width of the boundary, as a fraction of the image's diagonal
OUTSIDE = -1  # label of the pixels around the image, which belongs to no class


def boundary_width(height: int, width: int) -> int:
    """Return the width d of the boundary in pixels, at least 1.

    Example:
        >>> boundary_width(375, 500), boundary_width(10, 10)
        (12, 1)
    """
    return max(round(RATIO * math.sqrt(height**2 + width**2)), 1)


def near_boundary(labels: np.ndarray, width: int) -> np.ndarray:
    """Return which pixels have another label, or the border of the image, within ``width`` rows and columns.

    This is the mask of each class minus its erosion by ``width`` steps of a 3x3 square, for all classes together: a
    pixel stays in the erosion if the maximum and the minimum around it are its own label.

    Args:
        labels: Integer (H, W), all at least 0.
        width: Number of pixels.

    Returns:
        bool (H, W).
    """
    from scipy.ndimage import maximum_filter1d, minimum_filter1d  # slow to import, for a metric that is asked for

    values = labels.astype(np.int32)
    highest = lowest = values
    for axis in (0, 1):
        how = {"size": 2 * width + 1, "axis": axis, "mode": "constant", "cval": OUTSIDE}
        highest, lowest = maximum_filter1d(highest, **how), minimum_filter1d(lowest, **how)
    return highest != lowest


def count_boundary(predicted: np.ndarray, label: np.ndarray, classes: int, *, ignored: int = IGNORED) -> ExtraCounts:
    """Count by class the pixels that are near the boundary of their own map.

    Ignored pixels of the label are ignored in the prediction too, so both maps have the same boundary to them.

    Args:
        predicted: Integer (H, W), class indices.
        label: Integer (H, W), class indices.
        classes: Number of classes.
        ignored: Pixels with this label are not counted.
    """
    predicted = np.where(label == ignored, ignored, predicted)
    width = boundary_width(*label.shape)
    near = [near_boundary(labels, width) & (labels < classes) for labels in (predicted, label)]
    both = near[0] & near[1] & (predicted == label)
    columns = [label[both], predicted[near[0]], label[near[1]]]
    return sparse(*(np.bincount(values.astype(np.int64), minlength=classes) for values in columns))
