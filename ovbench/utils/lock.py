"""Lock a file for one process."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ovbench.utils.errors import InputError, first_line
from ovbench.utils.files import remove_leftovers_once, temporary_path

if TYPE_CHECKING:
    from filelock import BaseFileLock

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
NO_LOCKS_FIX = "choose a folder on another file system, or run the cells with `ovbench sweep`, which needs no locks"
HOLDER = "process "  # beginning of the text in a lock file; other texts are markers of filelock


def lock(path: Path, busy: str, fix: str) -> BaseFileLock:
    """Lock a file without waiting; ``release()`` on the result unlocks it.

    The operating system unlocks the file when the process ends, so no lock remains after a crash. The file stays and
    has the name of its last holder.

    Args:
        path: The lock file, in an existing folder.
        busy: The message if another process holds the lock.
        fix: What to do in this case.

    Returns:
        The lock.

    Raises:
        InputError: If another process holds the lock, or the file system has no locks.
        OSError: If the file cannot be opened.
    """
    from filelock import FileLock, Timeout  # imported here, because reading results needs no lock

    _require_locks(path)
    held = FileLock(path, timeout=0, thread_local=False)
    holder = _text(path)
    try:
        held.acquire()
    except Timeout:
        by = f": {' '.join(holder.split())}" if holder else ""
        raise InputError(f"{busy}{by}", where=str(path), fix=fix) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        raise InputError(
            f"the file system has no file locks ({first_line(error)})", where=str(path), fix=NO_LOCKS_FIX,
        ) from error  # fmt: skip
    if not (text := _text(path)) or text.startswith(HOLDER):
        path.write_text(f"{HOLDER}{os.getpid()} on {socket.gethostname()}\n")
    return held


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in a block with this lock file.

    The lock only saves work: if the file cannot be locked, the block runs at once.

    Args:
        path: The lock file; its folder is created.
    """
    from filelock import FileLock

    held = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_locks(path)
        held = FileLock(path, thread_local=False)
        held.acquire()
    except (InputError, NotImplementedError, OSError):
        held = None
    try:
        yield
    finally:
        if held is not None:
            held.release()


def _require_locks(path: Path) -> None:
    """Refuse a file system without locks; filelock would use a marker there, which stays after a crash.

    Raises:
        InputError: If the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return  # not POSIX
    remove_leftovers_once(path.parent)
    own = temporary_path(path)  # on the lock file itself, another process would take this lock for the holder's
    try:
        with own.open("x") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            what = f"the file system has no file locks ({error.strerror})"
            raise InputError(what, where=str(path), fix=NO_LOCKS_FIX) from error
    finally:
        own.unlink(missing_ok=True)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
