"""The ledger of a cell: one line per image, appended when the image is finished, and flushed to disk every second.

A ledger is a folder of part files, one per process that has ever written to it, so that another number of processes can
resume a run. Every line is ``crc32 json``. The first line is the header (see `ovbench.evaluation.identity`); the
other lines are images, each with the start time of its run. The first image of a run also has the revision and the
device (``run``). A crash can only cut the last line of a part; the checksum detects this, and the next writer removes
the line. A damaged line inside a part loses this line only. Records are computed from the ledger alone.

Text lines are used instead of SQLite because of measurements (results/benchmarks/ledger.json). A row that is equally
durable takes 1.1 to 1.3 times as long to write as a line, and 2.3 to 2.6 times the space. SQLite reads three times
faster, but 20,000 lines take only a second. Lines also need no locking between processes.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench.data.sources import members_below
from ovbench.evaluation.ledger_index import Ledger, LedgerLine, PartReader, TemporaryCopies
from ovbench.evaluation.ledger_lines import Entry, as_line, decode_line, encode_line, entry_of
from ovbench.evaluation.part_file import open_part
from ovbench.utils.differences import mismatches
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.folders import is_remote
from ovbench.utils.lock import lock
from ovbench.utils.text import short_text

if TYPE_CHECKING:
    from filelock import BaseFileLock

FORMAT = 1
PARTS = "part-*.jsonl"
LOCK = ".lock"  # suffix of the hidden file beside a part that its writer locks


def ledger_parts(folder: Path, name: str = "*") -> list[Path]:
    """Return the parts of a ledger, which may be in an archive or at a URL.

    Args:
        folder: The ledger; without it the list is empty.
        name: Pattern of the names of the parts.
    """
    pattern = PARTS.replace("*", name)
    members = members_below(folder)
    if members is None:
        return sorted(folder.glob(pattern), key=str) if folder.exists() else []
    return sorted((folder / each for each in members if fnmatch.fnmatch(each, pattern)), key=str)


def read_ledger(folder: Path, header: Mapping[str, Any], parts: Iterable[Path] | None = None) -> Ledger:
    """Read all entries of a ledger.

    If an image failed and was counted later, the counts are used. If the files of an image changed, the newest counts
    are used.

    Args:
        folder: The ledger.
        header: The expected header.
        parts: Only these parts; None for all.

    Returns:
        Entries by image id.

    Raises:
        InputError: If a part belongs to another run, with the first difference; or two parts have different counts of
            an image.
    """
    ledger, copies, found = Ledger(), TemporaryCopies(), list[LedgerLine]()
    for part in ledger_parts(folder) if parts is None else parts:
        found += _entry_lines(PartReader(part, copies), header, ledger.damaged)
    found.sort(key=lambda line: (line.started, not line.void))
    for line in found:
        ledger.take(line)
    return ledger


def _entry_lines(part: PartReader, header: Mapping[str, Any], damaged: dict[Path, int]) -> Iterator[LedgerLine]:
    belongs = is_named_after(part.path.parent, header)  # a part with a damaged header is still used
    runs: dict[str, dict[str, Any]] = {}
    for offset, raw in part.lines():
        line = decode_line(raw)
        try:
            if line is not None and "format" in line:
                _refuse_other(line, header, part.path)
                belongs = True
            elif line is None or not belongs:
                damaged[part.path] = damaged.get(part.path, 0) + 1
            else:
                started = line.get("started", "")
                if "run" in line:
                    runs[started] = {"started": started, **line["run"]}
                elif started and started not in runs:
                    runs[started] = {"started": started}
                entry = entry_of(line, runs.get(started))
                yield LedgerLine(entry.image, part, offset, entry.counts is not None, entry.void, started, entry.run)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what, fix = f"malformed ledger: {type(error).__name__}: {error}", "choose another --out"
            raise InputError(what, where=str(part.path), fix=fix) from error


def read_header(folder: Path) -> dict[str, Any] | None:
    """Return the header of the first readable part; None if there is none."""
    for part in ledger_parts(folder):
        for _, raw in PartReader(part, TemporaryCopies()).lines():
            line = decode_line(raw)
            if line is not None and "format" in line:
                return line
    return None


def header_digest(header: Mapping[str, Any]) -> str:
    """Return the sha256 of a header's canonical form."""
    plain = {key: value for key, value in header.items() if key != "format"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def is_named_after(folder: Path, header: Mapping[str, Any]) -> bool:
    """Return whether a ledger's folder has the name of this header, see `ovbench.evaluation.identity.run_name`."""
    return folder.name.endswith(f"-{header_digest(header)[:8]}")


def _refuse_other(found: Mapping[str, Any], header: Mapping[str, Any], part: Path) -> None:
    other = mismatches(found, {"format": FORMAT} | dict(header))
    if other:
        name, there, now = other[0]
        raise InputError(
            f'the folder belongs to another run: "{name}" is {short_text(there)} there and {short_text(now)} now',
            where=str(part),
            fix="choose another --out",
        )


def part_content(header: Mapping[str, Any], entries: Iterable[Entry]) -> bytes:
    """Return the content of a part that has these entries; equal entries give equal bytes."""
    lines, run = [encode_line({**header, "format": FORMAT})], None
    for entry in entries:
        lines.append(encode_line(as_line(entry, run)))
        run = entry.run
    return b"".join(lines)


class LedgerWriter:
    """The part file of this process, locked and opened for appending.

    Args:
        folder: The ledger.
        name: Name of the part.
        header: Header of the ledger.
        locked: Whether to lock the part; False if no other process uses its name, or for a folder by URL.

    Raises:
        InputError: If the part is locked or cannot be written.
    """

    def __init__(self, folder: Path, name: str, header: Mapping[str, Any], *, locked: bool = True):
        self._folder, self._name, self._number, self._header = folder, name, 1, header
        self._lock: BaseFileLock | None = None
        self.path = folder / f"part-{name}.jsonl"
        try:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if locked and not is_remote(folder):
                    self._lock = lock_part(self.path)
            except OSError as error:
                raise self._failure(error) from error
            self._open()
        except InputError:
            self._release()
            raise

    def _open(self) -> None:
        """Open the part, or its next file if the last one is full."""
        number = "" if self._number == 1 else f".{self._number}"
        self.path = self._folder / f"part-{self._name}{number}.jsonl"
        self._run: Mapping[str, Any] | None = None
        try:
            self._file = open_part(self.path)
        except OSError as error:
            raise self._failure(error) from error
        try:
            if not self._cut_torn_line():
                self._write({"format": FORMAT, **self._header})
        except InputError:
            self._close_file()
            raise

    def add(self, entry: Entry) -> None:
        """Append an entry; it is in the file when this returns, and on disk a second later or when the part is closed.

        Raises:
            InputError: If it cannot be written; earlier entries are kept.
        """
        if self._file.full:
            self._close_file()
            self._number += 1
            self._open()
        self._write(as_line(entry, self._run))
        self._run = entry.run

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(encode_line(line))
            self._file.sync()
        except OSError as error:
            raise self._failure(error) from error

    def _cut_torn_line(self) -> bool:
        """Remove a last line that a crash has cut; return whether the part has a header."""
        content = self._file.content()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        return any("format" in line for line in map(decode_line, content[:whole].splitlines(keepends=True)) if line)

    def _failure(self, error: OSError) -> InputError:
        room = "free the disk or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return InputError(
            f"cannot write the ledger: {error.strerror or first_line(error)}", where=str(self.path),
            fix=f"{room}choose another --out, then repeat the command; counted images are kept",
        )  # fmt: skip

    def publish(self) -> None:
        """Make all entries visible for other processes and flush them to disk.

        Raises:
            InputError: If they cannot be written.
        """
        try:
            self._file.publish()
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the file and release the lock.

        Raises:
            InputError: If the last lines cannot be written.
        """
        try:
            self._close_file()
        finally:
            self._release()

    def _close_file(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise self._failure(error) from error

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> LedgerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def publish(parts: Iterable[LedgerWriter]) -> None:
    """Make the entries of all parts visible, see `LedgerWriter.publish`."""
    for part in parts:
        part.publish()


def lock_part(part: Path) -> BaseFileLock:
    """Lock a part of a ledger.

    Raises:
        InputError: If another process writes it.
    """
    file = part.with_name(f".{part.stem}{LOCK}")
    return lock(file, "another process is running this cell", "wait for it or choose another --out")
