"""Normalisation constants as tensors, and the conversion from one normalisation to another."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ovbench.backbones.preprocess import Normalisation


def per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return three values as float (3, 1, 1) on the device of an image.

    They are cached, because every copy to a GPU waits until the GPU has finished its queue.
    """
    return _uploaded(values, like.device, like.dtype)


@functools.lru_cache(maxsize=64)
def _uploaded(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # training uses it too
        return torch.tensor(values, device=device, dtype=dtype).view(-1, 1, 1)


def renormalise(images: Tensor, given: Normalisation, wanted: Normalisation) -> Tensor:
    """Convert images, float (B, 3, H, W), from the normalisation ``given`` to ``wanted``.

    Padding with zeros becomes the mean colour of ``given``.
    """
    if given == wanted:
        return images
    constants = (*given.unit(), *wanted.unit())
    mean, std, new_mean, new_std = (per_channel(tuple(values), images) for values in constants)
    return (images * std + mean - new_mean) / new_std
