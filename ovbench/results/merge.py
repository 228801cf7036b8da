"""Merging the shards of a cell that ran on machines which did not know of each other.

Every shard leaves beside its part of the ledger a file ``shard-KofN.json``: the images of the whole run in order, and
what it ran with. Together with the counts that is all a record needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.engine.ledger import Entry, LedgerPart, read_header, read_ledger
from ovbench.engine.share import Shard
from ovbench.errors import InputError
from ovbench.results.build import build_record
from ovbench.results.store import read_json, write_json

MERGED = "merged"  # name of the one part of a merged ledger
EQUAL = ("images", "record", "versions", "device")  # what shards of one run have in common


class Piece(NamedTuple):
    """One shard as found: its folder, the header of its ledger and what it left to be merged with."""

    folder: Path
    header: dict[str, Any]
    shard: Shard
    left: dict[str, Any]


def leave_for_merge(
    folder: Path, shard: Shard, images: Sequence[str], record: str, made_with: Mapping[str, Any]
) -> None:
    """Write what `merge` needs of a shard: the ids of all shards' images and the name of the whole record."""
    left = {"shard": list(shard), "images": list(images), "record": record, **made_with}
    write_json(folder / f"shard-{shard.number}of{shard.of}.json", left)


def merge(folders: Sequence[Path], out: Path) -> tuple[dict[str, Any], Path]:
    """One ledger and one record below ``out`` from cell folders that hold every shard exactly once.

    InputError where shards are missing, doubled or unfinished, or where they belong to unlike runs.
    """
    pieces = [piece for folder in folders for piece in _pieces(folder)]
    for piece in pieces[1:]:
        _refuse_unlike(pieces[0], piece)
    _refuse_incomplete(pieces)
    first = pieces[0]
    entries: dict[str, Entry] = {}
    for piece in pieces:
        found = read_ledger(piece.folder, {k: v for k, v in piece.header.items() if k != "format"})
        entries.update({image: found[image] for image in piece.shard.take(piece.left["images"]) if image in found})
        _refuse_unfinished(piece, found)
    header = {key: value for key, value in first.header.items() if key != "format"}
    target = out / first.folder.name
    if target.resolve() not in {piece.folder.resolve() for piece in pieces}:
        _write_ledger(target, header, [entries[image] for image in first.left["images"]])
    made_with = {"versions": first.left["versions"], "git": _revisions(pieces), "device": first.left["device"]}
    if "approximate" in first.left:
        made_with["approximate"] = first.left["approximate"]
    record = build_record(
        header, first.left["images"], entries, made_with, {"merged_shards": first.shard.of}, target.name
    )
    path = out / first.left["record"]
    write_json(path, record)
    return record, path


def _pieces(folder: Path) -> list[Piece]:
    header = read_header(folder)
    if header is None:
        raise InputError("no ledger in the folder", where=str(folder), fix="give the cell folders below --out")
    files = sorted(folder.glob("shard-*of*.json"))
    if not files:
        raise InputError("no shard in the folder", where=str(folder), fix="run its cell with --shard K/N")
    left = [read_json(file) for file in files]
    try:
        return [Piece(folder, header, Shard(*each["shard"]), each) for each in left]
    except (KeyError, TypeError) as error:
        raise InputError("malformed shard file", where=str(folder)) from error


def _refuse_unlike(first: Piece, other: Piece) -> None:
    of = {"shards": first.shard.of}, {"shards": other.shard.of}
    shared = {k: first.left.get(k) for k in EQUAL}, {k: other.left.get(k) for k in EQUAL}
    for ours, theirs in ((first.header, other.header), of, shared):
        found = _difference(ours, theirs)
        if found:
            name, a, b = found
            raise InputError(
                f'the shards are of unlike runs: "{name}" is {_short(a)} in {first.folder} and {_short(b)}',
                where=str(other.folder),
                fix="run them with the same settings and software",
            )


def _difference(a: Any, b: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The dotted name of the first field that differs, and both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        below = (_difference(a.get(k), b.get(k), f"{name}.{k}" if name else k) for k in sorted(a.keys() | b.keys()))
        return next(filter(None, below), None)
    return None if a == b else (name, a, b)


def _revisions(pieces: Sequence[Piece]) -> dict[str, Any] | None:
    """The one revision of all shards, or all of them."""
    found = [piece.left["git"] for piece in pieces]
    if all(each == found[0] for each in found):
        return found[0]
    commits = sorted({each["commit"] if each else "none" for each in found})
    return {"commit": ", ".join(commits), "modified": any(each is None or each["modified"] for each in found)}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_incomplete(pieces: Sequence[Piece]) -> None:
    of, times = pieces[0].shard.of, Counter(piece.shard.number for piece in pieces)
    missing = [f"{number}/{of}" for number in range(1, of + 1) if not times[number]]
    doubled = [f"{number}/{of}" for number, count in sorted(times.items()) if count > 1]
    what = [f"{word} {', '.join(names)}" for word, names in (("missing", missing), ("doubled", doubled)) if names]
    if what:
        raise InputError(f"not every shard exactly once: {'; '.join(what)}", fix="give every shard's folder once")


def _refuse_unfinished(piece: Piece, found: Mapping[str, Entry]) -> None:
    images = piece.shard.take(piece.left["images"])
    lacking = [image for image in images if image not in found]
    if lacking:
        name = f"{piece.shard.number}/{piece.shard.of}"
        raise InputError(
            f"shard {name} is not finished: {len(lacking)} of {len(images)} images missing, the first {lacking[0]}",
            where=str(piece.folder), fix=f"repeat its command with --shard {name}",
        )  # fmt: skip


def _write_ledger(folder: Path, header: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    others = [part for part in folder.glob("part-*.jsonl") if part.name != f"part-{MERGED}.jsonl"]
    if others:
        raise InputError("the folder holds another ledger", where=str(folder), fix="choose another --out")
    (folder / f"part-{MERGED}.jsonl").unlink(missing_ok=True)  # of an earlier merge
    with LedgerPart(folder, MERGED, header) as ledger:
        for entry in entries:
            ledger.add(entry)
