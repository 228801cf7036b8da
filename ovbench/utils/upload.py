"""Copy arrays to a device, and tensors from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device; to a GPU via pinned memory, so that the host does not wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def start_download(tensor: Tensor) -> Tensor:
    """Return a copy in the memory of the host; of a GPU it is not complete until the GPU has finished its queue."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class Download:
    """Copies of tensors in the memory of the host, which a GPU makes while the host continues.

    Args:
        tensors: At least one; all on one device.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self._copies = [start_download(tensor) for tensor in tensors]
        device = tensors[0].device
        self._made = torch.cuda.Event() if device.type == "cuda" else None
        if self._made is not None:  # named, because the device may not be the current one
            self._made.record(torch.cuda.current_stream(device))

    def result(self) -> list[Tensor]:
        """Return the copies, once the device has made them; the host waits once."""
        if self._made is not None:
            self._made.synchronize()
        return self._copies
