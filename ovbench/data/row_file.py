"""Read images from the rows of Parquet files and of the Arrow files of Hugging Face datasets.

A cell has the bytes of a file, or its path, which counts from the folder of the table or from the folder above it.
"""

from __future__ import annotations

import functools
import threading
from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate
from pathlib import Path
from typing import Any

from ovbench.utils.errors import InputError
from ovbench.utils.extras import install_line
from ovbench.utils.files import parse_json

ROW_SUFFIXES = (".parquet", ".arrow")
MOST_BYTES = 4 << 30  # of a row group, whose columns are read as a whole
KEPT = 3  # row groups in memory, per file


class RowFile:
    """A table whose rows have images: bytes, paths, or the struct of both of Hugging Face; thread-safe.

    Args:
        path: A Parquet file, or an Arrow file as `datasets` writes it.

    Attributes:
        rows: Number of rows.
        columns: Names of the columns, with whether they can have images.
        class_names: Names of the classes by column, if the file states them.
        names: Nothing; members are read by ``COLUMN/ROW``.

    Raises:
        InputError: If pyarrow is missing, or the file is damaged.
    """

    def __init__(self, path: Path):
        self.path, self._lock = path, threading.Lock()
        self.names: Collection[str] = ()
        try:
            import pyarrow as arrow
            from pyarrow import parquet
        except ImportError:
            what = "Parquet and Arrow files are read with pyarrow, which is not installed"
            raise InputError(what, where=str(path), fix=f"install it: {install_line('parquet')}") from None
        self._broken = (arrow.ArrowException, OSError, UnicodeDecodeError)
        try:
            if path.suffix.lower() == ".parquet":
                self._file = parquet.ParquetFile(path if isinstance(path, Path) else path.open("rb"))
                self._schema = self._file.schema_arrow
                sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
            elif not isinstance(path, Path):
                raise InputError("Arrow files are read from disks only", where=str(path), fix="write it as Parquet")
            else:
                self._batches = _batches(arrow, path)
                self._file, self._schema = None, self._batches[0].schema if self._batches else arrow.schema([])
                sizes = [batch.num_rows for batch in self._batches]
            kinds = {name: self._schema.field(name).type for name in self._schema.names}
        except self._broken as error:
            raise self._damaged(error) from None
        self._ends = list(accumulate(sizes))
        self.rows = self._ends[-1] if self._ends else 0
        self.class_names = _class_names(self._schema.metadata)
        self._group = functools.lru_cache(maxsize=2 * KEPT)(self._read_group)
        self.columns = {name: _has_images(arrow, kind) or self._has_paths(arrow, name) for name, kind in kinds.items()}

    def read(self, name: str) -> bytes:
        """Return the bytes in ``COLUMN/ROW``; KeyError if there is no such row."""
        value = self._cell(name)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            column, _, row = name.rpartition("/")
            what = f'the column "{column}" has no image in row {row}'
            raise InputError(what, where=str(self.path), fix="each row must have the bytes of a file or its path")
        return data

    def file_of(self, name: str) -> Path | None:
        """Return the file whose path is in ``COLUMN/ROW``, None if the cell has bytes or nothing.

        Raises:
            InputError: If there is no such file.
            KeyError: If there is no such row.
        """
        value = self._cell(name)
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else None
        if not isinstance(value, str) or not value:
            return None
        found = self._found(value)
        if found is None:
            raise InputError(
                f'{name} names the file "{value}", which does not exist', where=str(self.path),
                fix="paths count from the folder of the table or from the folder above it",
            )  # fmt: skip
        return found

    def _found(self, path: str) -> Path | None:
        try:
            return next((one / path for one in self.path.absolute().parents[:2] if (one / path).is_file()), None)
        except (OSError, ValueError):  # text that cannot be a path: too long, or with a zero
            return None

    def _has_paths(self, arrow: Any, column: str) -> bool:
        kind = self._schema.field(column).type
        if not self.rows or not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
            return False
        try:
            value = self.value(column, 0)
        except InputError:
            return False  # said if the column is used
        return isinstance(value, str) and self._found(value) is not None

    def _cell(self, name: str) -> Any:
        column, _, row = name.rpartition("/")
        if column not in self.columns or not row.isdecimal() or int(row) >= self.rows:
            raise KeyError(name)
        return self.value(column, int(row))

    def value(self, column: str, row: int) -> Any:
        """Return the value of a cell."""
        group = bisect_right(self._ends, row)
        start = self._ends[group - 1] if group else 0
        with self._lock:
            try:
                return self._group(column, group)[row - start].as_py()
            except self._broken as error:
                raise self._damaged(error) from None

    def _read_group(self, column: str, group: int) -> Any:
        if self._file is None:
            return self._batches[group].column(self._schema.get_field_index(column))
        # the sizes of single columns are not asked for: pyarrow aborts the process if their statistics are damaged
        size = self._file.metadata.row_group(group).total_byte_size
        if size > MOST_BYTES:
            raise InputError(
                f"a row group has {size / 2**30:.0f} GiB, which must be read as a whole", where=str(self.path),
                fix="write the file with smaller row groups, such as 100 rows",
            )  # fmt: skip
        found = self._file.read_row_group(group, columns=[column], use_threads=False).column(0)
        stated = self._file.metadata.row_group(group).num_rows
        if len(found) != stated:  # the rows after it would be of other images
            raise self._damaged(ValueError(f'the column "{column}" has {len(found)} of {stated} rows'))
        return found

    def _damaged(self, error: Exception) -> InputError:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        return InputError(f"cannot read the table: {what}", where=str(self.path), fix="copy the file again")


def _batches(arrow: Any, path: Path) -> list[Any]:
    """Return the record batches of an Arrow file, stream or random access; bytes stay on the disk until used."""
    source = arrow.memory_map(str(path))
    try:
        return list(arrow.ipc.open_stream(source))
    except arrow.ArrowInvalid:
        reader = arrow.ipc.open_file(source)
        return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _has_images(arrow: Any, kind: Any) -> bool:
    binary = (arrow.types.is_binary, arrow.types.is_large_binary)
    if arrow.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        kind = kind.field(index).type if index >= 0 else kind
    return any(is_kind(kind) for is_kind in binary)


def _class_names(metadata: Any) -> dict[str, list[str]]:
    """Return the class names that the metadata of `datasets` states, by column."""
    try:
        features = parse_json((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: _names_in(feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in found.items() if names}


def _names_in(feature: Any) -> list[str]:
    if not isinstance(feature, dict):
        return []
    names = feature.get("names")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    return _names_in(feature.get("feature"))
