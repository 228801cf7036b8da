"""Shared by the scripts that time one function against another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def fastest(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest of several runs, the device's work included."""
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
    """What the times depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
