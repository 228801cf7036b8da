"""The ledger of a cell: one line per image, appended and flushed to disk as the image finishes.

A ledger is a folder of part files, one per process that ever wrote to it, so that a run can be resumed by another
number of processes. Every line is ``crc32 json``; the first line of a part is its header. A crash can at worst tear the
last line of a part, which its checksum shows and the next writer cuts off. What the parts say together is the only
source of a record.

Lines and not SQLite, by measurement (results/benchmarks/ledger.json): a row that is as durable (WAL, synchronous=FULL)
takes 1.1 to 1.3 times as long to note as a line, and 2.3 to 2.6 times the space. SQLite reads back three times faster,
but 20,000 lines are read in a second; and with synchronous=NORMAL it notes six times faster, but the last images may
be lost when the power fails. Lines also need no locking between processes, each having its own file.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovbench.errors import InputError
from ovbench.metrics.counts import PixelCounts

FORMAT = 1


class Entry(NamedTuple):
    """What happened to one image: its counts, or the reason why it failed; and the seconds of every stage."""

    image: str
    counts: PixelCounts | None
    failed: str | None
    seconds: dict[str, float]


def read_ledger(folder: Path, header: Mapping[str, Any]) -> dict[str, Entry]:
    """All entries of a ledger by image id. InputError where a part belongs to another run, naming what differs.

    An image that failed once and was counted later counts; of two equal entries one is kept.
    """
    entries: dict[str, Entry] = {}
    for part in sorted(folder.glob("part-*.jsonl")):
        lines = _whole_lines(part)
        found = next(lines, None)
        if found is None:
            continue
        _refuse_other(found, header, part)
        for line in lines:
            entry = _entry(line)
            if entry.image not in entries or entries[entry.image].counts is None:
                entries[entry.image] = entry
    return entries


def read_header(folder: Path) -> dict[str, Any] | None:
    """The header of the first readable part; None for a folder without one."""
    for part in sorted(folder.glob("part-*.jsonl")):
        header = next(_whole_lines(part), None)
        if header is not None:
            return header
    return None


def _whole_lines(part: Path) -> Iterator[dict[str, Any]]:
    """The lines up to the first torn one."""
    try:
        with part.open("rb") as file:
            for raw in file:
                value = _decode(raw)
                if value is None:
                    return
                yield value
    except OSError as error:
        raise InputError(f"cannot read the ledger: {error.strerror}", where=str(part)) from error


def _decode(raw: bytes) -> dict[str, Any] | None:
    checksum, _, body = raw.partition(b" ")
    if not raw.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
        return None
    return json.loads(body)


def _encode(value: Mapping[str, Any]) -> bytes:
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    return b"%08x " % zlib.crc32(body) + body


def _refuse_other(found: Mapping[str, Any], header: Mapping[str, Any], part: Path) -> None:
    ours = {"format": FORMAT} | dict(header)
    for key in sorted(found.keys() | ours.keys()):
        if found.get(key) != ours.get(key):
            there, now = _short(found.get(key)), _short(ours.get(key))
            raise InputError(
                f'the folder holds another run: "{key}" is {there} there and {now} now',
                where=str(part),
                fix="choose another --out, or start over with --fresh",
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _entry(line: Mapping[str, Any]) -> Entry:
    counts = line.get("counts")
    if counts is not None:
        counts = PixelCounts(*(np.array(part, dtype=np.int64) for part in counts))
    return Entry(line["image"], counts, line.get("failed"), line.get("seconds", {}))


class LedgerPart:
    """The part file that this process appends to; a second process that asks for the same part is refused.

    The lock is the operating system's and goes with its process, so none can be left behind.
    """

    def __init__(self, folder: Path, name: str, header: Mapping[str, Any]):
        self.path = folder / f"part-{name}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab+")
        except OSError as error:
            raise self._failure(error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise InputError(
                "another process is running this cell", where=str(self.path), fix="wait for it or choose another --out"
            ) from error
        self._cut_torn_line()
        if self._file.tell() == 0:
            self._write({"format": FORMAT, **header})

    def add(self, entry: Entry) -> None:
        """Append an entry; when this returns it is on disk. InputError where it cannot be, nothing before is lost."""
        line: dict[str, Any] = {"image": entry.image}
        if entry.counts is not None:
            line["counts"] = [part.tolist() for part in entry.counts]
        if entry.failed is not None:
            line["failed"] = entry.failed
        self._write({**line, "seconds": {stage: round(spent, 6) for stage, spent in entry.seconds.items()}})

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(_encode(line))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from error

    def _cut_torn_line(self) -> None:
        self._file.seek(0)
        whole = 0
        for raw in self._file:
            if _decode(raw) is None:
                break
            whole += len(raw)
        self._file.truncate(whole)
        self._file.seek(whole)

    def _failure(self, error: OSError) -> InputError:
        return InputError(
            f"cannot write the ledger: {error.strerror}", where=str(self.path),
            fix="free the disk or choose another --out, then repeat the command; what was counted is kept",
        )  # fmt: skip

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> LedgerPart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
