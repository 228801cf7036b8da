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
from ovbench.results.record import read_record
from ovbench.results.tables import Found, find_records

# what a report reads of a record, and the kind of each
NEEDED = {
    "status": str, "settings_sha256": str, "ledger": str, "failed": dict, "per_class": list, "cell.method": str,
    "cell.dataset": str, "cell.params": dict, "cell.protocol": dict, "cell.backbones": dict, "cell.regions": dict,
    "dataset.title": str, "dataset.classes": list, "dataset.images": int, "dataset.images_asked_for": int,
    "dataset.split_images": int, "dataset.label_rule": str, "dataset.ids_sha256": str, "metrics.classes_in_mean": int,
    "counts.intersection": list, "counts.union": list, "counts.predicted": list, "counts.labelled": list,
    "weights": dict, "versions": dict, "device": dict, "time.started": str,
}  # fmt: skip


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


def _run(found: Found) -> Run:
    _check(found)
    run = Run(found.path, found.record)
    run.notes += [f"{image} failed: {reason}" for image, reason in found.record["failed"].items()]
    try:
        run.header, entries = _ledger(found)
        ids = _scored(entries, found.record)
        counts = [entries[i].counts for i in ids]
        _refuse_unlike(counts, found)
    except InputError as error:
        run.notes.append(f"no confusions and no images: {error}")
    else:
        run.ids, run.counts = ids, counts
    return run


def _check(found: Found) -> None:
    for name, kind in NEEDED.items():
        value: Any = found.record
        for step in name.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise InputError(f'not a whole record: "{name}" is missing or no {kind.__name__}', where=str(found.path))
    classes = len(found.record["dataset"]["classes"])
    columns = [*found.record["counts"].values(), found.record["per_class"]]
    if any(not isinstance(column, list) or len(column) != classes for column in columns):
        raise InputError(f"not a whole record: not every column has {classes} classes", where=str(found.path))


def _ledger(found: Found) -> tuple[dict[str, Any], dict[str, Entry]]:
    folder = found.path.parent / found.record["ledger"]
    header = read_header(folder)
    if header is None:
        raise InputError("no ledger beside the record", where=str(folder), fix="keep a run's folder with its record")
    if header.get("settings_sha256") != found.record["settings_sha256"]:
        raise InputError("the ledger beside the record is of other settings", where=str(folder))
    entries = read_ledger(folder, header)
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


def _refuse_unlike(counts: Sequence[PixelCounts], found: Found) -> None:
    """InputError unless the images' counts are those of the record."""
    total = Confusion(len(found.record["dataset"]["classes"]))
    try:
        for one in counts:
            total.add(one)
    except (IndexError, ValueError) as error:
        raise InputError("the ledger has counts of other classes than the record", where=str(found.path)) from error
    for name in ("intersection", "predicted", "labelled"):
        if not np.array_equal(getattr(total, name), found.record["counts"][name]):
            raise InputError("the ledger beside the record is of other images or another run", where=str(found.path))
