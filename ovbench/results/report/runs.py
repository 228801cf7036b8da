"""The runs of a report: records, with the counts of their images if a ledger is beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovbench.metrics.confusion import PixelCounts
from ovbench.results.record_counts import read_counts
from ovbench.results.record_files import RecordFile, records_at
from ovbench.utils.errors import InputError


@dataclass
class ReportRun:
    """A record, and the ids and counts of its images, which are empty without a ledger.

    ``notes`` are sentences about missing or different data, ``files`` the image files by id, relative to the page.
    """

    path: Path
    record: dict[str, Any]
    header: dict[str, Any] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    counts: list[PixelCounts] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes."""
        return self.record["dataset"]["classes"]

    @property
    def partial(self) -> bool:
        """Return whether only a part of the benchmark was scored."""
        return RecordFile(self.path, self.record).partial

    @property
    def name(self) -> str:
        """Return method and dataset."""
        return f"{self.record['cell']['method']} on {self.record['cell']['dataset']}"


def gather(paths: Sequence[Path]) -> list[ReportRun]:
    """Read records, and all records of folders, each once.

    Raises:
        InputError: If there is no record, or one is damaged.
    """
    found = records_at(*paths)
    if not found:
        raise InputError("no record", where=", ".join(map(str, paths)), fix="run ovbench eval first")
    return [_run(f) for f in found]


def notes_of(runs: Sequence[ReportRun]) -> dict[str, list[str]]:
    """Return the notes of all runs, each with the file names of its records."""
    notes: dict[str, list[str]] = {}
    for run in runs:
        for note in run.notes:
            notes.setdefault(note, []).append(run.path.name)
    return notes


def _run(found: RecordFile) -> ReportRun:
    run = ReportRun(found.path, found.record, notes=list(found.record.get("notes", ())))
    run.notes += [f"{image} failed: {reason}" for image, reason in found.record["failed"].items()]
    try:
        counted = read_counts(found.path, found.record)
    except InputError as error:
        run.notes.append(f"no confusions and no images: {error}")
    else:
        run.header, run.ids, run.counts = counted.header, [*counted.counts], [*counted.counts.values()]
        run.notes += counted.remarks
    return run
