"""Helpers of the scripts that compare the times of functions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ovbench.utils.provenance import device_name


def durations(function: Callable[[], Any], repeats: int, device: torch.device) -> list[float]:
    """Return the seconds of several runs, with the work of the device."""
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - start)
    return times


def fastest(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Return the seconds of the fastest of several runs, with the work of the device."""
    return min(durations(function, repeats, device))


def spread(times: Sequence[float]) -> float:
    """Return the slowest of several times over the fastest, 1 if all are equal."""
    return round(max(times) / max(min(times), 1e-9), 2)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the machine and versions on which times depend."""
    return {
        "device": device_name(str(device))["name"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }
