"""Resize images like Pillow with two matrix products, so that a batch stays on its device.

Pillow resamples 8-bit images in integers: weights are rounded to multiples of 2^-22, and values are rounded to 8 bits
after horizontal and again after vertical resampling. Sums of such products are exact in float64, so the result
equals Pillow's in every bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WEIGHT_BITS = 22  # Pillow's PRECISION_BITS for 8-bit channels


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Return Keys' kernel with a = -0.5, as Pillow has it (OpenCV and torch use -0.75)."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}


def resize_like_pillow(images: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """Resize images to the values of ``PIL.Image.resize``; a side that keeps its length is not resampled.

    Args:
        images: uint8 (..., h, w).
        size: The new (H, W).
        kernel: "bilinear" or "bicubic".

    Returns:
        uint8 (..., H, W).

    Example:
        >>> resize_like_pillow(torch.tensor([[0, 100]], dtype=torch.uint8), (1, 4), "bilinear").tolist()
        [[0, 25, 75, 100]]
    """
    h, w = images.shape[-2:]
    if w != size[1]:
        images = _round(images.double() @ _weights(w, size[1], kernel, images.device).T)
    if h != size[0]:
        images = _round(_weights(h, size[0], kernel, images.device) @ images.double())
    return images


def _weights(old: int, new: int, kernel: str, device: torch.device) -> Tensor:
    """Return the weights of the input pixels for every output pixel, times 2^22: integers as float64 (new, old)."""
    function, support = KERNELS[kernel]
    scale = old / new
    stretch = max(scale, 1.0)  # the kernel is wider if the image becomes smaller, so every input pixel is used
    centre = (torch.arange(new, dtype=torch.float64, device=device) + 0.5) * scale
    first = (centre - support * stretch + 0.5).clamp(min=0).floor()
    end = (centre + support * stretch + 0.5).clamp(max=old).floor()
    pixel = torch.arange(old, dtype=torch.float64, device=device)
    weights = function((pixel - centre[:, None] + 0.5) / stretch)
    weights *= (pixel >= first[:, None]) & (pixel < end[:, None])
    weights /= weights.sum(1, keepdim=True)
    scaled = weights * (1 << WEIGHT_BITS)
    return torch.trunc(scaled + torch.where(scaled < 0, -0.5, 0.5))


def _round(sums: Tensor) -> Tensor:
    return ((sums + (1 << (WEIGHT_BITS - 1))) / (1 << WEIGHT_BITS)).floor().clamp(0, 255).to(torch.uint8)
