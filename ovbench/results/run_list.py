"""The rows of a list of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovbench.results.bundle import short_id
from ovbench.results.record_files import deviations_of, find_records


def run_rows(
    folder: Path, methods: Sequence[str] = (), datasets: Sequence[str] = (), *, partial: bool = False
) -> list[dict[str, Any]]:
    """Return one row per run of a folder, the newest first.

    Args:
        folder: The folder of the records.
        methods: Only these methods; all if empty.
        datasets: Only these datasets; all if empty.
        partial: Only runs that cover a part of their benchmark.

    Raises:
        InputError: If the folder does not exist.
    """
    found = [
        one
        for one in find_records(folder)
        if (not methods or one.record["cell"]["method"] in methods)
        and (not datasets or one.record["cell"]["dataset"] in datasets)
        and (one.partial or not partial)
    ]
    found.sort(key=lambda one: one.record["time"]["started"], reverse=True)
    return [
        {
            "id": short_id(one.path),
            "file": str(one.path),
            "method": one.record["cell"]["method"],
            "dataset": one.record["cell"]["dataset"],
            "images": one.record["dataset"]["images"],
            "split_images": one.record["dataset"]["split_images"],
            "partial": one.partial,
            "failed": len(one.record["failed"]),
            "mIoU": one.record["metrics"]["mIoU"],
            "started": one.record["time"]["started"],
            "differs": deviations_of(one.record),
        }
        for one in found
    ]
