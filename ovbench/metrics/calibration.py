"""Count pixels by the confidence of their best class, for the expected calibration error."""

from __future__ import annotations

import numpy as np

from ovbench.metrics.confusion import IGNORED
from ovbench.metrics.extra_counts import BINS, ExtraCounts, sparse
from ovbench.metrics.named import CONFIDENCE_UNIT


def count_calibration(
    best: np.ndarray, confidence: np.ndarray, label: np.ndarray, *, ignored: int = IGNORED
) -> ExtraCounts:
    """Count pixels, right pixels and confidence in 15 bins of equal width.

    Args:
        best: Integer (H, W), the class with the highest probability, before any threshold.
        confidence: float (H, W), its probability in [0, 1].
        label: Integer (H, W), class indices.
        ignored: Pixels with this label are not counted.

    Raises:
        ValueError: If a confidence is not in [0, 1].
    """
    kept = label != ignored
    units = np.rint(confidence[kept].astype(np.float64) * CONFIDENCE_UNIT)
    if not ((units >= 0) & (units <= CONFIDENCE_UNIT)).all():
        raise ValueError("a confidence is not between 0 and 1")
    units = units.astype(np.int64)
    bins = np.minimum(units * BINS // CONFIDENCE_UNIT, BINS - 1)
    right = (best == label)[kept]
    columns = (bins[right], None), (bins, units), (bins, None)
    sums = (np.bincount(index, weights, BINS) for index, weights in columns)
    return sparse(*(np.rint(column).astype(np.int64) for column in sums))
