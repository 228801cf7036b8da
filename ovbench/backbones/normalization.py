"""Numbers for the three colour channels, on the device of a picture."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ovbench.backbones.preprocess import Normalisation


def per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The values as f[3, 1, 1] beside a picture. They are uploaded once: every copy to a GPU has the host wait for all
    that the GPU has still to do."""
    return _uploaded(values, like.device, like.dtype)


@functools.lru_cache(maxsize=64)
def _uploaded(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # so that training may use it, too
        return torch.tensor(values, device=device, dtype=dtype).view(-1, 1, 1)


def renormalise(images: Tensor, given: Normalisation, wanted: Normalisation) -> Tensor:
    """Images f[b, 3, h, w] that were normalised with ``given``, as if with ``wanted``. Padding with zeros becomes the
    mean colour of ``given``."""
    if given == wanted:
        return images
    constants = (*given.unit(), *wanted.unit())
    mean, std, new_mean, new_std = (per_channel(tuple(values), images) for values in constants)
    return (images * std + mean - new_mean) / new_std
