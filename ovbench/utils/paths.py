"""Paths of the cache and of the package's data files, and a home folder if there is none."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from ovbench.utils.errors import UsageError

URL = re.compile(r"[A-Za-z][\w+.-]+:/")  # pathlib makes one slash of two; the letter of a Windows disk is no scheme
_PACKAGE = Path(__file__).resolve().parents[1]


def cache_root() -> Path:
    """Return the cache folder, which may not exist yet.

    Returns:
        ``$OVBENCH_CACHE`` if it is set, otherwise ``ovbench`` in the user's cache folder; also if it is a URL, see
        `ovbench.utils.shared_cache`.
    """
    if (chosen := os.environ.get("OVBENCH_CACHE")) and not URL.match(chosen):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ovbench"


def real_path(path: str | Path) -> Path:
    """Return an absolute path without links, for a path of a user: a loop of links stays as it is."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def local_folder(text: str | Path, what: str, where: str) -> Path:
    """Return a path of this machine.

    Args:
        text: The path.
        what: What the folder is, for the message.
        where: The option or variable, for the message.

    Raises:
        UsageError: If it is a URL.
    """
    if URL.match(str(text)):
        fix = "mount it, or copy it to a disk of this machine; --out can be a URL"
        raise UsageError(f'{what} cannot be a URL: "{text}"', where=where, fix=fix)
    return Path(text).expanduser()


def shipped(*names: str) -> Path:
    """Return the path of a file or folder of ``configs/`` or ``datasets/``.

    The wheel contains both folders; an editable installation reads them from the checkout.

    Args:
        names: The path below the common folder, for example ``"configs", "weights.toml"``.

    Returns:
        The path, whether it exists or not.
    """
    installed = _PACKAGE / "_shipped"
    root = installed if installed.is_dir() else _PACKAGE.parent
    return root.joinpath(*names)


def asset(*names: str) -> Path:
    """Return the path of a file of ``ovbench/assets``, for example a small trained backbone.

    Args:
        names: The path below the folder.

    Returns:
        The path, whether it exists or not.
    """
    return _PACKAGE.joinpath("assets", *names)


def ensure_home() -> None:
    """Create a temporary home folder if the process has none.

    Containers often have neither ``HOME`` nor an entry in passwd, and libraries ask for a home folder too. The folder
    is removed when the process ends. If no cache folder is set, a warning on stderr says that nothing is cached.
    """
    try:
        Path.home()
    except RuntimeError:
        folder = tempfile.mkdtemp(prefix="ovbench-home-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["HOME"] = folder
        kept = os.environ.get("OVBENCH_CACHE") or os.environ.get("XDG_CACHE_HOME")
        if not kept:
            print("warning: there is no home folder, so no cache is kept; set HOME or OVBENCH_CACHE", file=sys.stderr)
