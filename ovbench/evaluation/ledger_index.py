"""The entries of a ledger by image; each is decoded when it is asked for, so memory does not grow with the counts."""

from __future__ import annotations

import io
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from ovbench.data.sources import container_of, read_source
from ovbench.evaluation.ledger_lines import Entry, counts_of, decode_line, entry_of
from ovbench.utils.errors import InputError
from ovbench.utils.folders import is_remote


class PartReader:
    """A part of a ledger, whose lines can be read again one by one.

    Args:
        path: The part; one in an archive or at a URL is copied to a temporary file.
        copies: Opens the temporary file.
    """

    def __init__(self, path: Path, copies: TemporaryCopies):
        self.path = path
        self._copies = copies if is_remote(path) or container_of(path) is not None else None

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and the bytes of every line; a cut last line is skipped.

        Raises:
            InputError: If the part cannot be read.
        """
        try:
            file, offset = (self.path.open("rb"), 0) if self._copies is None else self._copies.add(self.path)
            with file:
                for raw in file:
                    if raw.endswith(b"\n"):
                        yield offset, raw
                    offset += len(raw)
        except OSError as error:
            raise self._error(error) from error

    def line(self, offset: int) -> bytes:
        """Return the bytes of the line at an offset.

        Raises:
            InputError: If the part cannot be read.
        """
        try:
            if self._copies is not None:
                return self._copies.line(offset)
            with self.path.open("rb") as file:
                file.seek(offset)
                return file.readline()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> InputError:
        return InputError(f"cannot read the ledger: {error.strerror or error}", where=str(self.path))


class TemporaryCopies:
    """One temporary file with the parts of a ledger that are not files of this machine."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def add(self, path: Path) -> tuple[IO[bytes], int]:
        """Copy a part; return its content and its offset in the temporary file."""
        data = read_source(path).data if container_of(path) is not None else path.read_bytes()
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the ledger
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        return io.BytesIO(data), offset

    def line(self, offset: int) -> bytes:
        """Return the line at an offset of the temporary file."""
        assert self._file is not None
        self._file.seek(offset)
        return self._file.readline()


class LedgerLine(NamedTuple):
    """Where an entry is, and what must be known of it to choose between several of an image.

    Attributes:
        image: Id of the image.
        part: Its part.
        offset: Its position in the part.
        counted: Whether it has counts.
        void: Whether it withdraws earlier counts.
        started: Start of its run, "" if it is not known.
        run: Its run.
    """

    image: str
    part: PartReader
    offset: int
    counted: bool
    void: bool
    started: str
    run: dict[str, Any] | None

    def entry(self) -> Entry:
        """Read and decode the entry.

        Raises:
            InputError: If the part cannot be read, or was changed since.
        """
        line = decode_line(self.part.line(self.offset))
        if line is None or line.get("image") != self.image:
            what = "the ledger was changed while it was read"
            raise InputError(what, where=str(self.part.path), fix="repeat the command")
        return entry_of(line, self.run)


class Ledger(Mapping[str, Entry]):
    """The entries by image id, decoded when they are asked for.

    Attributes:
        damaged: Number of unreadable lines by part file.
    """

    def __init__(self) -> None:
        self.damaged: dict[Path, int] = {}
        self._lines: dict[str, LedgerLine] = {}

    def __getitem__(self, image: str) -> Entry:
        return self._lines[image].entry()

    def __contains__(self, image: object) -> bool:
        return image in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def newest(self) -> str:
        """Return the start of the newest run, "" if it is not known."""
        return max((line.started for line in self._lines.values()), default="")

    def run(self, image: str) -> dict[str, Any] | None:
        """Return the run that wrote the entry of an image, None if it is not known."""
        return self._lines[image].run

    def runs(self) -> list[tuple[dict[str, Any], int]]:
        """Return the runs that counted images with the number of their images, the oldest first."""
        counted = [line for line in self._lines.values() if line.counted and line.run]
        images, runs = Counter(line.started for line in counted), {line.started: line.run for line in counted}
        return [(run, images[started]) for started, run in sorted(runs.items()) if run is not None]

    def chosen(self, images: Iterable[str]) -> Ledger:
        """Return the ledger of some images, in their order; those without an entry are left out."""
        found = Ledger()
        found.damaged = self.damaged
        found._lines = {image: self._lines[image] for image in images if image in self._lines}
        return found

    def add(self, other: Ledger) -> None:
        """Add the entries of another ledger of the same run; a failed image does not replace a counted one."""
        for image, line in other._lines.items():
            before = self._lines.get(image)
            if line.counted or before is None or not before.counted:
                self._lines[image] = line

    def by_run(self) -> list[str]:
        """Return the ids of all images, those of the oldest run first."""
        return sorted(self._lines, key=lambda image: self._lines[image].started)

    def take(self, line: LedgerLine) -> None:
        """Take the next line in the order of time; see `ovbench.evaluation.ledger.read_ledger` for which one is used.

        Raises:
            InputError: If two parts have different counts of an image.
        """
        before = self._lines.get(line.image)
        if line.void:
            self._lines.pop(line.image, None)
            return
        if before is not None and before.counted and (not line.counted or _is_repeated(before, line)):
            return
        self._lines[line.image] = line

    def remarks(self) -> list[str]:
        """Return one sentence per part file with damaged lines."""
        return [
            f"{count} damaged line{'s' * (count > 1)} in {part}; the others are used"
            for part, count in self.damaged.items()
        ]


def _is_repeated(one: LedgerLine, other: LedgerLine) -> bool:
    """Return whether two lines have counts of the same bytes, if the lines have this data."""
    before, after = one.entry(), other.entry()
    if before.data is not None and after.data is not None:
        digests = [{name: facts[-1] for name, facts in entry.data.items()} for entry in (before, after) if entry.data]
        if digests[0] != digests[-1]:
            return False
    if one.part is not other.part and counts_of(before) != counts_of(after):
        raise InputError(
            f"two parts of the ledger have different counts of the image {one.image}",
            where=f"{one.part.path} and {other.part.path}", fix="count again with --fresh; both parts are kept",
        )  # fmt: skip
    return True
