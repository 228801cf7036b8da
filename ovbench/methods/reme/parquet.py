"""Parquet files, through pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench.utils.errors import InputError, UsageError, first_line
from ovbench.utils.extras import install_line
from ovbench.utils.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa


def arrow() -> Any:
    """Return pyarrow with its Parquet module.

    Raises:
        UsageError: If pyarrow, which is an extra, is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("reference sets are built with pyarrow", fix=install_line("reme")) from None
    return pyarrow


def write_table(
    path: Path, tables: Iterable[pa.Table], schema: pa.Schema, notes: Mapping[str, str] | None = None
) -> int:
    """Write tables as one file, whole or not at all.

    Args:
        path: The file.
        tables: Tables, one after another.
        schema: The columns.
        notes: Text that goes into the schema's metadata.

    Returns:
        The number of rows.

    Raises:
        InputError: If the file cannot be written.
    """
    pa, rows = arrow(), 0
    schema = schema.with_metadata(dict(notes or {}))
    with replacing(path) as temporary, pa.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
            rows += table.num_rows
    return rows


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a table.

    Args:
        path: The file.
        columns: The columns to read; all by default.

    Raises:
        InputError: If the file is missing or damaged.
    """
    pa = arrow()
    try:
        return pa.parquet.read_table(path, columns=columns)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise InputError(f"cannot read the table: {first_line(error)}", where=str(path)) from None


def notes_of(path: Path) -> dict[str, str]:
    """Read the notes that `write_table` stored.

    Raises:
        InputError: If the file is missing or damaged.
    """
    pa = arrow()
    try:
        metadata = pa.parquet.read_schema(path).metadata or {}
        return {key.decode(): value.decode() for key, value in metadata.items()}
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise InputError(f"cannot read the table: {first_line(error)}", where=str(path)) from None
