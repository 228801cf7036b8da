"""The lines of a ledger: ``crc32 json``, one per image."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.extra_counts import ExtraCounts, from_lists, to_lists
from ovbench.utils.files import parse_json


class Entry(NamedTuple):
    """The result of one image: its counts, or the reason why it failed.

    Lines of older versions have only the first four fields.

    Attributes:
        image: Id of the image.
        counts: Pixel counts, None if the image failed.
        failed: The reason, None if the image is counted.
        seconds: Time of each stage.
        number: Number of the image in the split.
        data: Files of the image, each as an `ovbench.data.decode.FileIdentity`.
        run: The run that wrote the entry.
        void: Whether the files of the image have changed, so that its earlier counts are not used.
        extra: Other counts that were asked for, by name; None if there are none.
    """

    image: str
    counts: PixelCounts | None
    failed: str | None
    seconds: dict[str, float]
    number: int | None = None
    data: dict[str, list[Any]] | None = None
    run: dict[str, Any] | None = None
    void: bool = False
    extra: dict[str, ExtraCounts] | None = None


def decode_line(raw: bytes) -> dict[str, Any] | None:
    """Return the value of a line; None if it is damaged."""
    checksum, _, body = raw.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        value = parse_json(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def encode_line(value: Mapping[str, Any]) -> bytes:
    """Return a value as a line with its checksum."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    return b"%08x " % zlib.crc32(body) + body


def entry_of(line: Mapping[str, Any], run: dict[str, Any] | None) -> Entry:
    """Return the entry of a line.

    Args:
        line: The line.
        run: The run that wrote it, None if it is not known.
    """
    counts = line.get("counts")
    if counts is not None:
        counts = PixelCounts(*(np.array(array, dtype=np.int64) for array in counts))
        if len({column.shape for column in counts}) > 1 or counts.label.ndim != 1:
            raise ValueError("counts of different lengths")
    return Entry(
        line["image"], counts, line.get("failed"), line.get("seconds", {}), line.get("number"), line.get("data"), run,
        line.get("void", False), {name: from_lists(lists) for name, lists in line.get("extra", {}).items()} or None,
    )  # fmt: skip


def as_line(entry: Entry, run: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the line of an entry; ``run`` is the run of the line before, which is not written again."""
    values = {
        "image": entry.image, "void": entry.void or None, "number": entry.number, **counts_of(entry),
        "failed": entry.failed, "data": entry.data,
        "seconds": {stage: round(spent, 6) for stage, spent in entry.seconds.items()},
    }  # fmt: skip
    line = {key: value for key, value in values.items() if value is not None}
    if entry.run is not None:
        line["started"] = entry.run["started"]
        if entry.run != run:
            line["run"] = {key: value for key, value in entry.run.items() if key != "started"}
    return line


def counts_of(entry: Entry) -> dict[str, Any]:
    """Return all counts of an entry as JSON data; None where it has none."""
    extra = None if entry.extra is None else {name: to_lists(counts) for name, counts in entry.extra.items()}
    return {"counts": entry.counts and to_lists(entry.counts), "extra": extra}
