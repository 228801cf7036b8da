"""Folders of the cache that are made on first use."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ovbench.utils.errors import InputError, warn_once
from ovbench.utils.files import fill_folder, is_filled
from ovbench.utils.paths import cache_root

Fill = Callable[[Path], object]


def cached_folder(category: str, name: str, fill: Fill) -> Path:
    """Return a folder of the cache; it appears only when it is complete, whichever process is faster.

    If the cache cannot be read or written, the folder is a temporary one of this process, with a warning.

    Args:
        category: Folder of the cache that it is in.
        name: Its name, which must depend on everything that its content depends on.
        fill: Writes the content into a new folder.
    """
    folder = cache_root() / category / name
    try:
        if not is_filled(folder):
            fill_folder(folder, fill)
        return folder
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        warn_once(f"{name} is made for this process only, the cache cannot be used: {cause.strerror} ({folder})")
    here = _temporary(folder)
    if not is_filled(here):
        fill_folder(here, fill)
    return here


@functools.cache
def _temporary(folder: Path) -> Path:
    above = tempfile.mkdtemp(prefix="ovbench-")
    atexit.register(shutil.rmtree, above, ignore_errors=True)
    return Path(above) / folder.name
