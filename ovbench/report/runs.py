"""The runs that a report is about: records, and the counts of their images where a ledger is beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.data.read import ids_sha256
from ovbench.engine.ledger import Entry, read_header, read_ledger
from ovbench.errors import InputError
from ovbench.metrics.counts import Confusion, PixelCounts
from ovbench.report.check import check_record
from ovbench.results.found import Found, find_records
from ovbench.results.record import read_record


@dataclass
class Run:
    """A record with what its ledger says: ``ids`` and their ``counts``, both empty without one; ``notes`` say what is
    missing or unlike, each in one sentence."""

    path: Path
    record: dict[str, Any]
    header: dict[str, Any] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    counts: list[PixelCounts] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return self.record["dataset"]["classes"]

    @property
    def partial(self) -> bool:
        return Found(self.path, self.record).partial

    @property
    def name(self) -> str:
        return f"{self.record['cell']['method']} on {self.record['cell']['dataset']}"


def gather(paths: Sequence[Path]) -> list[Run]:
    """Records, and all those of folders, each once. InputError where there is none or one is not whole."""
    found = [f for path in paths for f in (find_records(path) if path.is_dir() else [Found(path, read_record(path))])]
    if not found:
        raise InputError("no record", where=", ".join(map(str, paths)), fix="run ovbench eval first")
    return [_run(f) for f in {f.path.resolve(): f for f in found}.values()]


def notes_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The notes of all runs, each with the file names of the records that it is about."""
    notes: dict[str, list[str]] = {}
    for run in runs:
        for note in run.notes:
            notes.setdefault(note, []).append(run.path.name)
    return notes


def _run(found: Found) -> Run:
    check_record(found.record, found.path)
    run = Run(found.path, found.record)
    run.notes += [f"{image} failed: {reason}" for image, reason in found.record["failed"].items()]
    try:
        run.header, entries = _ledger(found)
        ids = _scored(entries, found.record)
        counts = [entries[i].counts for i in ids]
        _refuse_unlike(counts, found.record)
    except InputError as error:
        run.notes.append(f"no confusions and no images: {error}")
    else:
        run.ids, run.counts = ids, counts
    return run


def _ledger(found: Found) -> tuple[dict[str, Any], dict[str, Entry]]:
    folder = found.path.parent / found.record["ledger"]
    header = read_header(folder)
    if header is None:
        raise InputError("no ledger beside the record", fix="keep a run's folder with its record")
    if header.get("settings_sha256") != found.record["settings_sha256"]:
        raise InputError("the ledger beside the record is of other settings")
    try:
        entries = read_ledger(folder, header)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"malformed ledger: {type(error).__name__}: {error}") from error
    return header, {i: entry for i, entry in entries.items() if entry.counts is not None}


def _scored(entries: Mapping[str, Entry], record: Mapping[str, Any]) -> list[str]:
    """The ids that the record is about: the ledger may hold more, of a run on more images."""
    images, wanted = record["dataset"]["images"], record["dataset"]["ids_sha256"]
    for order in ([*entries], sorted(entries)):
        if ids_sha256(order[:images]) == wanted:
            return order[:images]
    if len(entries) == images:
        return sorted(entries)  # of several processes, in another order; the counts are compared next
    raise InputError(
        f"its ledger holds {len(entries)} images, and which {images} the record is about cannot be told",
        fix="repeat the run's command; its record then covers what is counted",
    )


def _refuse_unlike(counts: Sequence[PixelCounts], record: Mapping[str, Any]) -> None:
    """InputError unless the images' counts are those of the record."""
    total = Confusion(len(record["dataset"]["classes"]))
    try:
        for one in counts:
            total.add(one)
    except (IndexError, ValueError) as error:
        raise InputError("the ledger has counts of other classes than the record") from error
    if any(part.min(initial=0) < 0 for one in counts for part in one):
        raise InputError("the ledger has negative counts")
    for name in ("intersection", "predicted", "labelled"):
        if not np.array_equal(getattr(total, name), record["counts"][name]):
            raise InputError("the ledger beside the record is of other images or another run")
