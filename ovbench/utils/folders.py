"""Folders on this machine, or by URL anywhere that fsspec reaches, such as ``s3://bucket/runs``."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovbench.utils.errors import InputError, UsageError, first_line
from ovbench.utils.extras import install_line
from ovbench.utils.files import reaching, temporary_path

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def folder_at(text: str | Path) -> Path:
    """Return a path of this machine, or for a URL a path of universal_pathlib with the same methods.

    Args:
        text: A path, or a URL that fsspec knows.

    Raises:
        InputError: If the library for the URL is not installed.
        UsageError: If fsspec does not know the URL.

    Example:
        >>> folder_at("runs").name, is_remote(folder_at("runs")), is_remote(folder_at("memory://runs"))
        ('runs', False, True)
    """
    scheme, found, rest = str(text).partition("://")
    if not found:
        return Path(text)
    if scheme in ("file", "local"):
        return Path(rest)
    try:
        from upath import UPath
    except ImportError:
        fix = install_line("remote")
        raise InputError("a folder by URL needs universal_pathlib", where=str(text), fix=fix) from None
    with opened_system(str(text)):
        path = UPath(str(text), use_listings_cache=False)  # other processes write into the folder
        path.fs  # noqa: B018  opens the file system
    return path  # type: ignore[return-value]  # has Path's methods, but is none


def reached_folder(text: str | Path) -> Path:
    """Return a path as `folder_at`, after one request to the store of a URL.

    Raises:
        InputError: If the store cannot be reached, or the library for the URL is not installed.
        UsageError: If fsspec does not know the URL.
    """
    path = folder_at(text)
    if is_remote(path):
        with reaching(path):
            path.exists()
    return path


@contextmanager
def opened_system(url: str) -> Iterator[None]:
    """Turn the errors of opening fsspec's file system for a URL into messages.

    Raises:
        InputError: If the library for the URL is not installed.
        UsageError: If fsspec does not know the URL.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(f"a library for the URL is missing: {first_line(error)}", where=url) from None
    except ValueError as error:
        raise UsageError(f"unknown kind of URL: {first_line(error)}", where=url, fix="use a path") from None


def is_remote(path: Path) -> bool:
    """Return whether a path is a URL: its files are written as a whole, without locks, links and appending."""
    return not isinstance(path, Path)


def create_file(path: Path, content: bytes) -> bool:
    """Write a file that does not exist yet; of several processes on any machines, one succeeds.

    Args:
        path: The file, in an existing folder.
        content: Its content; no reader sees a part of it.

    Returns:
        Whether this process has created the file.

    Raises:
        InputError: If the file cannot be written.
    """
    try:
        if is_remote(path):
            with reaching(path):
                path.fs.pipe_file(path.path, content, mode="create")  # type: ignore[attr-defined]
            return True
        return _link(path, content)
    except FileExistsError:
        return False
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"cannot write the file: {reason}", where=str(path), fix="check the folder") from error


def _link(path: Path, content: bytes) -> bool:
    """Write a temporary file and link it, which is exclusive also on NFS."""
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(content)
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with path.open("xb") as file:  # the file system has no links
                file.write(content)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder; an empty list if it does not exist."""
    if not is_remote(folder):
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []
    system = folder.fs  # type: ignore[attr-defined]
    try:
        with reaching(folder):
            return [str(name).rstrip("/").rpartition("/")[2] for name in system.ls(folder.path, detail=False)]  # type: ignore[attr-defined]
    except FileNotFoundError:
        return []
