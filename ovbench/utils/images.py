"""Resize rules of the protocols."""

from __future__ import annotations

import cv2
import numpy as np


def resized_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """mmcv's ``rescale_size``: the factor that brings the short side to ``short_side`` without the long side exceeding
    ``long_side``; sides are rounded half up. ``short_side`` 0 keeps the size."""
    h, w = size
    if short_side == 0:
        return h, w
    factor = min(max(short_side, long_side) / max(h, w), min(short_side, long_side) / min(h, w))
    return int(h * factor + 0.5), int(w * factor + 0.5)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear on uint8 by OpenCV, as mmcv's ``imrescale``."""
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
