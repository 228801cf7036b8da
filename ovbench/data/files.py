"""Writing a file so that it is complete or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".ovbench-part"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to, beside the target; it becomes the target when the block ends well, else it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}{PART}")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left unfinished in a folder."""
    for left in folder.glob(f".*{PART}"):
        left.unlink(missing_ok=True)
