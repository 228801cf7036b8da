"""Files of a reference set or a bank that are not as they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ovbench.backbones.checkpoint import file_sha256


def changed_files(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield one sentence for each file that is missing, truncated or changed.

    Args:
        folder: The folder of the files.
        entries: "bytes" and "sha256" by the name of the file.
    """
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != entry["bytes"]:
            yield f"{name} has {path.stat().st_size} bytes, expected {entry['bytes']}: it was truncated or replaced"
        elif file_sha256(path) != entry["sha256"]:
            yield f"{name} has changed since it was written"
