"""Numbers for the three colour channels, on the device of a picture."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The values as f[3, 1, 1] beside a picture. They are uploaded once: every copy to a GPU has the host wait for all
    that the GPU has still to do."""
    return _uploaded(values, like.device, like.dtype)


@functools.lru_cache(maxsize=64)
def _uploaded(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # so that training may use it, too
        return torch.tensor(values, device=device, dtype=dtype).view(-1, 1, 1)
