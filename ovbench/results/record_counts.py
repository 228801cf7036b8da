"""Counts of the images of a record, from the ledger beside it, which may have more images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovbench.data.image_ids import ids_sha256
from ovbench.evaluation.ledger import Entry, read_header, read_ledger
from ovbench.evaluation.record import is_bundle
from ovbench.evaluation.scored import EXTRA_COUNTS
from ovbench.metrics.confusion import PixelCounts, sum_by_class
from ovbench.metrics.count_names import EXTRA
from ovbench.metrics.extra_counts import ExtraCounts, sum_extra, table_width
from ovbench.utils.errors import InputError


class RecordCounts(NamedTuple):
    """The counts of a record.

    Attributes:
        header: Header of the ledger.
        counts: Pixel counts of the record's images by id, in split order.
        remarks: Remarks on the ledger.
        extra: Other counts of the same images, by their name.
    """

    header: dict[str, Any]
    counts: dict[str, PixelCounts]
    remarks: list[str]
    extra: dict[str, dict[str, ExtraCounts]]


def read_counts(path: Path, record: Mapping[str, Any]) -> RecordCounts:
    """Read the counts that the record at ``path`` was computed from.

    Raises:
        InputError: If there is no ledger beside the record, or its counts are not those of the record.
    """
    name = record["ledger"]
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError('the record\'s "ledger" is not the name of a folder')
    folder = (path if is_bundle(path) else path.parent) / name
    header = read_header(folder)
    if header is None:
        raise InputError("no ledger beside the record", fix="keep a run's folder with its record")
    if header.get("settings_sha256") != record["settings_sha256"]:
        raise InputError("the ledger beside the record has other settings")
    ledger = read_ledger(folder, header)
    entries = {image: entry for image, entry in ledger.items() if entry.counts is not None}
    try:
        scored = {image: entries[image].counts for image in _scored(entries, record)}
        counts = {image: found for image, found in scored.items() if found is not None}
        extra = {name: _extra_counts(name, entries, counts, record) for name in EXTRA if record["counts"].get(name)}
        _refuse_other_counts(counts, record)
    except InputError as error:
        damaged = "; ".join(ledger.remarks())
        raise InputError(error.what + (f" ({damaged})" if damaged else ""), fix=error.fix) from error
    return RecordCounts(header, counts, ledger.remarks(), extra)


def _extra_counts(
    name: str, entries: Mapping[str, Entry], images: Iterable[str], record: Mapping[str, Any]
) -> dict[str, ExtraCounts]:
    """Return the counts of a name of every image, whose sum is that of the record."""
    found = {image: counts for image in images if (counts := (entries[image].extra or {}).get(name)) is not None}
    try:
        total = sum_extra(found.values(), table_width(name, len(record["dataset"]["classes"])))
    except (IndexError, ValueError) as error:
        raise InputError(f"the ledger has {name} counts of classes that the record does not have") from error
    if any(getattr(total, column).tolist() != record["counts"][name][column] for column in EXTRA_COUNTS):
        raise InputError(f"the {name} counts of the ledger beside the record are not those of the record")
    return found


def _scored(entries: Mapping[str, Entry], record: Mapping[str, Any]) -> list[str]:
    """Return the ids of the record's images, in split order if the ledger has the numbers."""
    data = record["dataset"]
    images, wanted, repeat = data["images"], data["ids_sha256"], "repeat the run's command"
    numbers = {image: entry.number for image, entry in entries.items() if entry.number is not None}
    if len(numbers) == len(entries):
        about = (image for image, number in numbers.items() if _is_about(number, data))
        candidates = [sorted(about, key=numbers.__getitem__)]
    else:
        candidates = [[*entries], sorted(entries)]
    if len(candidates[0]) < images:
        raise InputError(f"its ledger has {len(candidates[0])} of the {images} images of the record", fix=repeat)
    for order in candidates:
        if ids_sha256(order[:images]) == wanted:
            return order[:images]
    if len(entries) == images:
        return sorted(entries)  # several processes wrote in another order; the caller compares the counts
    raise InputError(
        f"its ledger has {len(entries)} images, and it is not known which {images} the record covers",
        fix=f"{repeat}; the new record covers all counted images",
    )


def _is_about(number: int, data: Mapping[str, Any]) -> bool:
    limit, shard = data.get("limit"), data.get("shard")
    return (limit is None or number < limit) and (shard is None or number % shard[1] == shard[0] - 1)


def _refuse_other_counts(counts: Mapping[str, PixelCounts], record: Mapping[str, Any]) -> None:
    """Raise InputError unless the record has the sum of the counts."""
    try:
        total = sum_by_class(counts.values(), len(record["dataset"]["classes"]))
    except (IndexError, ValueError) as error:
        raise InputError("the ledger counts classes that the record does not have") from error
    if any(part.min(initial=0) < 0 for one in counts.values() for part in one):
        raise InputError("the ledger has negative counts")
    for name in ("intersection", "predicted", "labelled"):
        if not np.array_equal(getattr(total, name), record["counts"][name]):
            raise InputError("the ledger beside the record belongs to other images or another run")
