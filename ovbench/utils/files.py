"""Write files that are complete or absent, and read JSON."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from ovbench.utils.errors import InputError, first_line

TEMPORARY = ".ovbench-tmp"
ABANDONED_S = 24 * 3600.0  # after this time without a write, the writer on another machine is assumed to be gone
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENOTSUP)
_WRITER = re.compile(rf"\.(?P<machine>[0-9a-f]{{8}})-(?P<pid>\d+)-[0-9a-f]{{8}}{re.escape(TEMPORARY)}")


def machine_id() -> str:
    """Return an id of the host and of its process ids, which are different in every container."""
    return _machine()


def process_is_gone(machine: str, pid: int) -> bool:
    """Return whether a process has ended; False for a process of another machine, about which nothing is known.

    Args:
        machine: The `machine_id` of the process.
        pid: Its process id.
    """
    return machine == _machine() and pid > 0 and not _runs(pid)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block ends without an error.

    The temporary file is in the same folder, which is created. File and folder are flushed to disk, so a reader finds
    the old file or the new one, also after a crash. After an error the old file stays and the temporary file is
    removed. Temporary files of killed writers are removed by the next process that writes into the folder. A device or
    a pipe, such as ``/dev/stdout``, is written into.

    Args:
        path: The file to write.
        durable: Whether to flush to disk. Without it, a power failure may leave a damaged file. Use False only for many
            small files that are checked when they are read and can be made again.

    Yields:
        The temporary path, where nothing exists yet.

    Raises:
        InputError: If the file cannot be written.
    """
    into = _is_device(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not into:
            remove_leftovers_once(path.parent)
        temporary = temporary_path(Path(tempfile.gettempdir(), path.name) if into else path)
        try:
            yield temporary
            if into:
                path.write_bytes(temporary.read_bytes())
                return
            if durable:
                _flush(temporary)
            temporary.replace(path)
            if durable:
                _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or first_line(error)
        fix = "free some space or check the permissions, then run the same command again"
        raise InputError(f"cannot write the file: {reason}", where=str(path), fix=fix) from error


def _is_device(path: Path) -> bool:
    """Return whether a path is a device, a pipe or an open file, which a rename would take from all processes."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    is_open_file = os.path.realpath(path.parent) in ("/dev", f"/proc/{os.getpid()}/fd")
    return is_open_file or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write bytes to a file, see `replacing`.

    Args:
        path: The file.
        content: Its new content.
        durable: Whether to flush to disk.

    Raises:
        InputError: If the file cannot be written.
    """
    if not isinstance(path, Path):  # a URL, where a file appears as a whole
        try:
            with reaching(path):
                path.write_bytes(content)
        except OSError as error:
            raise InputError(f"cannot write the file: {first_line(error)}", where=str(path)) from error
        return
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, see `replacing`.

    A lone surrogate, which UTF-8 cannot encode, is written as a JSON escape.

    Args:
        path: The file.
        value: What `json.dumps` can write; NaN is refused with a ValueError.

    Raises:
        InputError: If the file cannot be written.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: The file.

    Raises:
        InputError: If the file is missing or malformed.
    """
    _refuse_device(path)
    try:
        with reaching(path):
            text = path.read_text(encoding="utf-8")
        return parse_json(text)
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror or first_line(error)}", where=str(path)) from error
    except ValueError as error:
        raise InputError(f"malformed JSON: {error}", where=str(path)) from error


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; ValueError if it is malformed or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_text(path: Path, what: str) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        what: Name of its content for the message, such as "class list".

    Raises:
        InputError: If the file is missing, cannot be read, or is not UTF-8.
    """
    _refuse_device(path)
    with reading(path, what):
        return path.read_text(encoding="utf-8-sig")


def _refuse_device(path: Path) -> None:
    """Refuse a device, which may have no end, such as ``/dev/zero``; a pipe is read."""
    if isinstance(path, Path) and path.is_char_device():
        raise InputError("a device is not a file", where=str(path), fix="check the path")


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn the errors of reading a text file into messages, see `read_text`."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f'no {what} "{path}"', fix="check the path") from None
    except OSError as error:
        raise InputError(f'cannot read the {what} "{path}": {error.strerror}') from None
    except UnicodeDecodeError:
        raise InputError(f'the {what} "{path}" is not UTF-8 text', fix="save it as UTF-8") from None


@contextmanager
def reaching(path: PurePath) -> Iterator[None]:
    """Turn the errors of a store, where each library has its own, into messages; those of a disk are left as they are.

    Raises:
        InputError: If the store cannot be reached.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, FileExistsError, InputError):
        raise
    except Exception as error:
        if isinstance(path, Path):
            raise
        fix = "check the URL, the network, and the credentials for the store"
        raise InputError(f"cannot reach the store: {first_line(error)}", where=str(path), fix=fix) from error


def temporary_path(path: Path) -> Path:
    """Return a new path beside ``path`` whose name identifies the writer for `remove_leftovers`.

    Args:
        path: The file or folder that the temporary one will become.

    Returns:
        A path in the same folder, where nothing exists.
    """
    return path.with_name(f".{path.name[-50:]}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of killed writers from a folder.

    A writer on this machine is gone if its process has ended. For a writer on another machine the time of the last
    write decides, see `ABANDONED_S`.

    Args:
        folder: The folder; folders below it are not searched.
    """
    try:
        entries = list(os.scandir(folder))
    except PermissionError:
        return  # the folder can be written but not listed
    for entry in entries:
        if TEMPORARY not in entry.name or not entry.name.startswith("."):
            continue
        try:
            writer = _WRITER.search(entry.name)
            here = writer is not None and writer["machine"] == _machine()
            recent = time.time() - entry.stat(follow_symlinks=False).st_mtime < ABANDONED_S
            if _runs(int(writer["pid"])) if writer is not None and here else recent:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
        except OSError:
            continue  # another process was faster, or the file belongs to another user


def is_filled(folder: Path) -> bool:
    """Return whether there is such a folder with anything in it."""
    return os.path.isdir(folder) and bool(os.listdir(folder))


def fill_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Fill a new folder beside ``folder`` and rename it; if another process was faster, its folder stays.

    Args:
        folder: The folder; it appears only when it is complete.
        fill: Writes the content into a folder that exists.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    temporary = temporary_path(folder)
    try:
        temporary.mkdir()
        fill(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not is_filled(folder):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@functools.lru_cache(maxsize=4096)
def remove_leftovers_once(folder: Path) -> None:
    """Remove leftovers when this process writes into a folder for the first time: listing it for each file is slow."""
    remove_leftovers(folder)


@functools.cache
def _machine() -> str:
    """Return an id of the host and of its process ids, which are different in every container."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]


def _runs(pid: int) -> bool:
    """Return whether a process of this machine is alive."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it runs as another user
    return True


def _flush(path: Path) -> None:
    """Flush a file or folder to disk; a folder only if the file system supports it."""
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_FOLDER_FLUSH):
            raise
