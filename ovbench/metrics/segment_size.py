"""Count pixels by the size of their segment: small, medium or large by the areas of COCO."""

from __future__ import annotations

import numpy as np

from ovbench.metrics.confusion import IGNORED
from ovbench.metrics.extra_counts import ExtraCounts, sparse

AREAS = (32**2, 96**2)  # pixels from which a segment is medium, and large


def segment_areas(labels: np.ndarray) -> np.ndarray:
    """Return for each pixel the area of its segment: the connected pixels of its label, also over corners.

    Args:
        labels: Integer (H, W).

    Returns:
        int64 (H, W), in pixels.
    """
    from skimage.measure import label as connected  # only for these counts; the import takes half a second

    segment = connected(labels.astype(np.int32), background=-1, connectivity=2)
    return np.bincount(segment.ravel())[segment]


def count_by_size(predicted: np.ndarray, label: np.ndarray, classes: int, *, ignored: int = IGNORED) -> ExtraCounts:
    """Count pixels by class and size.

    A labelled pixel has the size of its segment in the label map. A pixel that is wrongly predicted as a class has, for
    this class, the size of its segment in the prediction. So every pixel counts once, and the sums over sizes are the
    usual counts. Ignored pixels of the label belong to no segment.

    Args:
        predicted: Integer (H, W), class indices.
        label: Integer (H, W), class indices.
        classes: Number of classes.
        ignored: Pixels with this label are not counted.

    Returns:
        Counts with the index "size times C plus class".
    """
    predicted = np.where(label == ignored, ignored, predicted)
    sizes = [np.digitize(segment_areas(labels), AREAS) * classes for labels in (predicted, label)]

    def count(kept: np.ndarray, size: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.bincount((size + labels.astype(np.int64))[kept], minlength=3 * classes)

    right = count((predicted == label) & (label < classes), sizes[1], label)
    wrong = count((predicted != label) & (predicted < classes), sizes[0], predicted)
    return sparse(right, right + wrong, count(label < classes, sizes[1], label))
