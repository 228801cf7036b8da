"""Resize images by the rules of the protocols."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image


def resized_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """Return the size that ``rescale_size`` of mmcv gives; sides are rounded half up.

    Args:
        size: (h, w) of the image.
        short_side: The short side becomes this long, if the long side allows it; 0 keeps the size.
        long_side: The long side does not exceed this.

    Returns:
        (h, w).
    """
    h, w = size
    if short_side == 0:
        return h, w
    factor = min(max(short_side, long_side) / max(h, w), min(short_side, long_side) / min(h, w))
    return int(h * factor + 0.5), int(w * factor + 0.5)


def resize_image(image: np.ndarray, size: tuple[int, int], rule: str = "opencv-bilinear") -> np.ndarray:
    """Resize an image.

    Args:
        image: uint8 (h, w, 3).
        size: The new (H, W).
        rule: "opencv-bilinear", as ``imrescale`` of mmcv, "pil-bicubic", as ``Resize`` of torchvision, or
            "opencv-area", the mean of the pixels, to make an image smaller.

    Returns:
        uint8 (H, W, 3); the image itself if it has the size.
    """
    if image.shape[:2] == size:
        return image
    if rule == "pil-bicubic":
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    interpolation = cv2.INTER_AREA if rule == "opencv-area" else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=interpolation)
