"""Adapters: run a method with the official parameters of a case, and return its stages by their recorded names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovbench.parity.case import Case
from ovbench.utils.errors import InputError
from ovbench.utils.registry import load_target

_BASELINES = "ovbench.parity.adapters.baselines"
_SELF_CALIBRATED = "ovbench.parity.adapters.self_calibrated"
ADAPTERS = {
    "cass": "ovbench.parity.adapters.cass:cass",
    "clearclip": f"{_BASELINES}:clearclip",
    "corrclip": "ovbench.parity.adapters.corrclip:corrclip",
    "corrclipv2": "ovbench.parity.adapters.corrclipv2:corrclipv2",
    "dihclip": f"{_SELF_CALIBRATED}:dihclip",
    "freecp": "ovbench.parity.adapters.freecp:freecp",
    "gem": f"{_BASELINES}:gem",
    "glaclip": "ovbench.parity.adapters.glaclip:glaclip",
    "lposs": "ovbench.parity.adapters.lposs:lposs",
    "maskclip": f"{_BASELINES}:maskclip",
    "naclip": f"{_BASELINES}:naclip",
    "ovstitcher": "ovbench.parity.adapters.ovstitcher:ovstitcher",
    "pearl": "ovbench.parity.adapters.pearl:pearl",
    "proxyclip": f"{_BASELINES}:proxyclip",
    "reme": "ovbench.parity.adapters.reme:reme",
    "rfclip": "ovbench.parity.adapters.rfclip:rfclip",
    "scclip": f"{_SELF_CALIBRATED}:scclip",
    "sclip": f"{_BASELINES}:sclip",
    "sfp": f"{_SELF_CALIBRATED}:sfp",
    "talk2dino": "ovbench.parity.adapters.talk2dino:talk2dino",
}


def run(case: Case) -> dict[str, Callable[[int | None], Any]]:
    """Run the method of a case on its inputs.

    Returns:
        By stage a function from the number of a window to its values.

    Raises:
        InputError: If ovbench has no adapter for the method, or the case lacks a field.
    """
    if case.method not in ADAPTERS:
        raise InputError(
            f'no parity check for the method "{case.method}" in this version',
            where=str(case.folder),
            fix="known: " + ", ".join(sorted(ADAPTERS)),
        )
    torch.manual_seed(0)
    try:
        return load_target(ADAPTERS[case.method], where=case.method)(case)
    except KeyError as error:
        raise InputError(f"the case lacks {error}", where=str(case.folder)) from error


def numpy_value(value: Any) -> np.ndarray:
    """Return the value of a stage as an array."""
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
