"""Where ovbench keeps what it can make again, see `ovbench.inference.cache`."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path


def cache_root() -> Path:
    """The cache folder: ``$OVBENCH_CACHE``, or ``ovbench`` in the user's cache folder. Not created here."""
    if chosen := os.environ.get("OVBENCH_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ovbench"


def ensure_home() -> None:
    """Give a process without a home folder (no HOME and no entry in passwd, as in containers) one that lasts as long as
    the process: libraries ask for it, too. Said on stderr, as nothing in it is kept."""
    try:
        Path.home()
    except RuntimeError:
        folder = tempfile.mkdtemp(prefix="ovbench-home-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["HOME"] = folder
        kept = os.environ.get("OVBENCH_CACHE") or os.environ.get("XDG_CACHE_HOME")
        if not kept:
            print("warning: there is no home folder, so no cache is kept; set HOME or OVBENCH_CACHE", file=sys.stderr)
