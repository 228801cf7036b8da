"""Where ovbench keeps what it can make again, see `ovbench.cache`."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The cache folder: ``$OVBENCH_CACHE``, or ``ovbench`` in the user's cache folder. Not created here."""
    if chosen := os.environ.get("OVBENCH_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ovbench"
