"""Merging the shards of a cell that ran on machines which did not know of each other.

Every shard leaves beside its part of the ledger a file ``shard-KofN.json``: the images of the whole run in order, and
what it ran with. Together with the counts that is all a record needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.evaluation.build_record import build_record
from ovbench.evaluation.distributed import Shard
from ovbench.evaluation.identity import record_name, run_name
from ovbench.evaluation.ledger import Entry, LedgerPart, difference, read_header, read_ledger, short
from ovbench.evaluation.made_with import counted_by, made_with
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json, write_json

MERGED = "merged"  # name of the one part of a merged ledger
EQUAL = ("images", "limit", "data_sha256", "versions", "device")  # what shards of one run have in common


class Piece(NamedTuple):
    """One shard as found: its folder, the header of its ledger and what it left to be merged with."""

    folder: Path
    header: dict[str, Any]
    shard: Shard
    left: dict[str, Any]


def leave_for_merge(folder: Path, shard: Shard, images: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Write what `merge` needs of a shard: the ids of all shards' images, and what it shares with the other shards."""
    left = {"shard": list(shard), "images": list(images), **facts}
    write_json(folder / f"shard-{shard.number}of{shard.of}.json", left)


def merge(folders: Sequence[Path], out: Path) -> tuple[dict[str, Any], Path]:
    """One ledger and one record below ``out`` from cell folders that hold every shard exactly once.

    The names of both are made from what was run; no text of a file is taken for a path. InputError where shards are
    missing, doubled or unfinished, or where they belong to unlike runs.
    """
    pieces = [piece for folder in folders for piece in _pieces(folder)]
    for piece in pieces[1:]:
        _refuse_unlike(pieces[0], piece)
    _refuse_incomplete(pieces)
    first = pieces[0]
    entries: dict[str, Entry] = {}
    for piece in pieces:
        found = read_ledger(piece.folder, _plain(piece.header))
        entries.update({image: found[image] for image in piece.shard.take(piece.left["images"]) if image in found})
        _refuse_unfinished(piece, found)
    header, limit = _plain(first.header), first.left.get("limit")
    target = out / run_name(header)
    if target.resolve() not in {piece.folder.resolve() for piece in pieces}:
        by_run = sorted(entries.values(), key=lambda entry: str((entry.run or {}).get("started", "")))
        _write_ledger(target, header, by_run)
    runs, about = counted_by(entries), {"limit": limit, "shard": None}
    timing = {"merged_shards": first.shard.of, "counted": runs} | ({"started": runs[-1]["started"]} if runs else {})
    made = made_with(header, entries, first.left)
    made |= {key: first.left[key] for key in ("published", "approximate") if key in first.left}
    record = build_record(header, first.left["images"], entries, made, timing, target.name, about=about)
    path = out / record_name(header, limit)
    write_json(path, record)
    return record, path


def _plain(header: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key != "format"}


def _pieces(folder: Path) -> list[Piece]:
    header = read_header(folder)
    if header is None:
        raise InputError("no ledger in the folder", where=str(folder), fix="give the cell folders below --out")
    if "code" not in header:
        raise InputError("the shard is of an older version of ovbench", where=str(folder), fix="run it again")
    files = sorted(folder.glob("shard-*of*.json"))
    if not files:
        raise InputError("no shard in the folder", where=str(folder), fix="run its cell with --shard K/N")
    left = [read_json(file) for file in files]
    try:
        pieces = [Piece(folder, header, Shard(*map(int, each["shard"])), each) for each in left]
        for piece in pieces:
            run_name(piece.header), piece.header["code"]["packages"]
            if not all(isinstance(image, str) for image in piece.left["images"]):
                raise TypeError("images are named by texts")
            if type(piece.left.get("limit")) not in (int, type(None)):
                raise TypeError("limit is a whole number")
        return pieces
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"malformed shard: {type(error).__name__}: {error}", where=str(folder), fix="run its cell with --shard K/N"
        ) from error


def _refuse_unlike(first: Piece, other: Piece) -> None:
    of = {"shards": first.shard.of}, {"shards": other.shard.of}
    shared = {k: first.left.get(k) for k in EQUAL}, {k: other.left.get(k) for k in EQUAL}
    for ours, theirs in ((first.header, other.header), of, shared):
        found = difference(ours, theirs)
        if found:
            name, a, b = found
            raise InputError(
                f'the shards are of unlike runs: "{name}" is {short(a)} in {first.folder} and {short(b)}',
                where=str(other.folder),
                fix="run them with the same settings and software",
            )


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
