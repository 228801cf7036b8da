"""Writing a file so that it is complete or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovbench.utils.errors import InputError

PART = ".ovbench-part"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to, beside the target; it becomes the target when the block ends well, else it is removed.

    InputError where it cannot be written.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}{PART}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, target)
    except OSError as error:
        fix = "free some space or check the permissions, then run the same command again"
        raise InputError(f"cannot write: {error.strerror or error}", where=str(target), fix=fix) from None
    finally:
        if part.exists():
            part.unlink()


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left unfinished in a folder."""
    for left in folder.glob(f".*{PART}"):
        left.unlink(missing_ok=True)
