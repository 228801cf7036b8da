"""The file behind a part of a ledger: on disk, or published as whole objects in a folder by URL."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from ovbench.utils.folders import is_remote

SYNC_S = 1.0  # a crash of the machine loses the images of this time; a killed process does not
PUBLISH_S = 30.0  # a killed process loses the images of this time; they are counted again
LARGEST = 4 << 20  # bytes of an object; the next line begins another one


class PartFile:
    """A file of this machine, opened for appending.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be opened.
    """

    full = False  # whether the next line needs another file
    _every, _published = SYNC_S, -SYNC_S

    def __init__(self, path: Path):
        self._file = path.open("ab+", buffering=0)  # unbuffered: every line is in the file at once

    def write(self, data: bytes) -> None:
        """Append data."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        """Publish, unless this was done recently."""
        if time.monotonic() - self._published > self._every:
            self.publish()

    def publish(self) -> None:
        """Return when everything is on disk; other processes see it already."""
        os.fsync(self._file.fileno())
        self._published = time.monotonic()

    def content(self) -> bytes:
        """Return everything that is written."""
        self._file.seek(0)
        return self._file.read()

    def truncate(self, size: int) -> None:
        """Keep only the first bytes."""
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Publish the rest, and close the file."""
        try:
            self.publish()
        finally:
            self._file.close()


class RemotePart(PartFile):
    """A file by URL: lines are collected on this machine, and the object is written as a whole now and then."""

    _every = PUBLISH_S

    def __init__(self, path: Path):
        self._path, self._published, self._new = path, time.monotonic(), False
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        if path.exists():
            self._file.write(path.read_bytes())

    def write(self, data: bytes) -> None:
        """Append data to the local copy."""
        super().write(data)
        self._new = True

    @property
    def full(self) -> bool:  # type: ignore[override]
        """Return whether the next line belongs into another object."""
        return self._file.tell() > LARGEST

    def publish(self) -> None:
        """Write the object."""
        if self._new:
            self._path.write_bytes(self.content())
            self._new = False
        self._published = time.monotonic()


def open_part(path: Path) -> PartFile:
    """Open a part for appending."""
    return RemotePart(path) if is_remote(path) else PartFile(path)
