"""Evaluate open-vocabulary semantic segmentation methods. Importing ovbench loads neither torch nor NumPy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovbench.api import evaluate, load, records
    from ovbench.methods.base import Method, Needs, NoParams

    __version__: str

_MODULES = {name: "ovbench.methods.base" for name in ("Method", "Needs", "NoParams")}
_MODULES |= {name: "ovbench.api" for name in ("evaluate", "load", "records")}

__all__ = ["Method", "Needs", "NoParams", "__version__", "evaluate", "load", "records"]


def __getattr__(name: str) -> Any:
    """Load a public name on its first use."""
    if name == "__version__":
        return importlib.import_module("ovbench.utils.version").package_version()
    if name not in _MODULES:
        raise AttributeError(f"module 'ovbench' has no attribute '{name}'")
    found = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
