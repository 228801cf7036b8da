"""A result as one file: the record and its ledger in a zip archive, which all commands read like a record."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ovbench.evaluation.ledger import part_content, read_header, read_ledger
from ovbench.evaluation.record import BUNDLE, EARLIER, RECORD_MEMBER, is_bundle, read_record
from ovbench.results.record_counts import read_counts
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import write_bytes

DATE = (1980, 1, 1, 0, 0, 0)  # of the members, so that equal results are equal files
ID = re.compile(r"-([0-9a-f]{8}(?:-(?:first\d+|shard\d+of\d+|partial))*)$")


class RunFiles(NamedTuple):
    """The files of a result: the record, and its ledger, None for a bundle or if it is missing."""

    record: Path
    ledger: Path | None


def write_bundle(record_path: Path, out: Path | None = None) -> Path:
    """Write a record and the counts of its images into one file; equal results give equal bytes.

    Args:
        record_path: The record, with its ledger beside it.
        out: The file or folder to write; by default beside the record.

    Returns:
        The file.

    Raises:
        InputError: If record or ledger cannot be read, do not belong together, or the file cannot be written.
    """
    record = read_record(record_path)
    header, counts, *_ = read_counts(record_path, record)
    folder = record_path / record["ledger"] if is_bundle(record_path) else record_path.parent / record["ledger"]
    ledger = read_ledger(folder, header)
    entries = [ledger[image] for image in counts]
    entries += [entry for image, entry in sorted(ledger.items()) if image in record["failed"]]
    target = record_path.parent if out is None else out
    if not is_bundle(target):
        target = target / f"{stem_of(record_path)}{BUNDLE}"
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in (
            (RECORD_MEMBER, text.encode("utf-8", "backslashreplace")),
            (f"{record['ledger']}/part-0.jsonl", part_content(header, entries)),
        ):
            info = zipfile.ZipInfo(name, DATE)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, data)
    write_bytes(target, buffer.getvalue())
    return target


def stem_of(path: Path) -> str:
    """Return the name of a record without its suffix."""
    return path.name.removesuffix(BUNDLE) if is_bundle(path) else path.stem


def short_id(path: Path) -> str:
    """Return the short id of a record: the last hash of its name, with its limit; otherwise the whole name.

    Example:
        >>> short_id(Path("runs/clip-mini-1a2b3c4d-5e6f7a8b-first2.json"))
        '5e6f7a8b-first2'
    """
    found = ID.search(stem_of(path))
    return found[1] if found else stem_of(path)


def record_files(folder: Path) -> list[Path]:
    """Return the files below a folder that may be records: JSON files, then bundles."""
    below = (*sorted(folder.rglob("*.json"), key=str), *sorted(folder.rglob(f"*{BUNDLE}"), key=str))
    return [
        path for path in below
        if EARLIER not in path.relative_to(folder).parts and not path.name.startswith("shard-")
    ]  # fmt: skip


def find_by_id(text: str, folders: Iterable[Path]) -> Path:
    """Return the record with a name or short id, which may be cut.

    Args:
        text: The name without suffix, the short id, or its beginning.
        folders: The folders to search.

    Raises:
        UsageError: If no record fits, or several.
    """
    every = [path for folder in folders for path in record_files(folder)]
    exact = [path for path in every if text in (short_id(path), stem_of(path))]
    fitting = exact or [path for path in every if short_id(path).startswith(text) or stem_of(path).startswith(text)]
    names = sorted({stem_of(path): path for path in reversed(fitting)}.values())  # a record before its bundle
    if len(names) == 1:
        return names[0]
    places = " and ".join(map(str, folders)) or "no folder"
    if not names:
        raise UsageError(
            f'"{text}" is neither a file nor the id of a record in {places}', fix="ids are listed by: ovbench runs list"
        )
    listed = ", ".join(short_id(path) for path in names[:5]) + (", ..." if len(names) > 5 else "")
    raise UsageError(f'"{text}" is the beginning of {len(names)} ids: {listed}', fix="write more of the id")


def files_of(path: Path) -> RunFiles:
    """Return the files of a result; a ledger that another record needs too is not among them.

    Raises:
        InputError: If the record cannot be read.
    """
    if is_bundle(path):
        return RunFiles(path, None)
    name = read_record(path)["ledger"]
    folder = path.parent / name
    if Path(name).name != name or read_header(folder) is None:
        return RunFiles(path, None)
    for other in path.parent.glob("*.json"):
        try:
            if other != path and read_record(other)["ledger"] == name:
                return RunFiles(path, None)
        except InputError:
            continue
    return RunFiles(path, folder)
