"""Label maps that a GPU still computes or copies."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ovbench.methods.base import Method
from ovbench.utils.errors import ScoreError
from ovbench.utils.upload import Download


class DeviceLabels:
    """Label maps on their way to the host, which a GPU copies while the next image is labelled.

    Args:
        maps: int32 (H, W), one per vocabulary; -1 everywhere if scores were not finite.
        method: The method.
    """

    def __init__(self, maps: list[Tensor], method: Method):
        self.method, self.maps = method, Download(maps)

    def result(self) -> list[np.ndarray]:
        """Wait for the device, and return uint16 (H, W), one map per vocabulary.

        Raises:
            ScoreError: If scores are NaN or infinite.
        """
        found = [map_.numpy() for map_ in self.maps.result()]
        if any(map_.flat[0] < 0 for map_ in found):
            raise not_finite(self.method)
        return [map_.astype(np.uint16) for map_ in found]


def not_finite(method: Method) -> ScoreError:
    """Return the error for scores that are no numbers."""
    return ScoreError(f"{type(method).__name__} returned scores that are NaN or infinite")
