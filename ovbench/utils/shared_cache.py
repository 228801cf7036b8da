"""Entries of the cache at a URL, which several machines share; each also keeps those that it used in its own folder.

An entry is one whole object with a checksum, and is created only if it does not exist. So all machines use the entry of
the first, a reader never sees half of one, and a killed writer leaves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ovbench.utils.errors import InputError, warn_once
from ovbench.utils.files import reaching, write_bytes
from ovbench.utils.folders import create_file, folder_at
from ovbench.utils.paths import URL

Value = TypeVar("Value")


def shared_cache() -> Path | None:
    """Return the folder if ``$OVBENCH_CACHE`` is a URL, otherwise None."""
    chosen = os.environ.get("OVBENCH_CACHE", "")
    return folder_at(chosen) if URL.match(chosen) else None


def read_shared(name: str, decode: Callable[[bytes], Value]) -> tuple[bytes, Value] | None:
    """Read an entry.

    Args:
        name: Its path in the cache.
        decode: Checks and decodes the content; ValueError if it is damaged.

    Returns:
        The content and what it means; None if there is no shared cache, no such entry, or only a damaged one. If the
        store cannot be reached, also a warning.
    """
    folder = shared_cache()
    if folder is None:
        return None
    try:
        with reaching(folder):
            content = (folder / name).read_bytes()
        return content, decode(content)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except (InputError, OSError) as error:
        warn_once(f"the shared cache is not used: {error}")
        return None


def publish(name: str, content: bytes, decode: Callable[[bytes], Value]) -> bytes:
    """Write an entry, unless another machine was first.

    Args:
        name: Its path in the cache.
        content: Its content.
        decode: As for `read_shared`; a damaged entry is replaced.

    Returns:
        The content that all machines use; without a shared cache the given one.

    Raises:
        InputError: If it cannot be written.
    """
    folder = shared_cache()
    if folder is None:
        return content
    path = folder / name
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if create_file(path, content):
        return content
    earlier = read_shared(name, decode)
    if earlier is None:
        write_bytes(path, content)
    return content if earlier is None else earlier[0]
