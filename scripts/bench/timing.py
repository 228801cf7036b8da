"""Helpers of the scripts that compare the times of functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def fastest(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Return the seconds of the fastest of several runs, with the work of the device."""
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ran_on(device: torch.device) -> dict[str, Any]:
    """Return the machine and versions on which times depend."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
