"""Merge the shards of a cell that ran as separate jobs.

Each shard writes a file ``shard-KofN.json`` beside its part of the ledger, with the ordered images of the whole run,
the software and the device. A record is computed from these files and the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from ovbench.evaluation.counting_runs import run_summaries, software_and_device
from ovbench.evaluation.devices import refuse_other_devices
from ovbench.evaluation.distributed import Shard
from ovbench.evaluation.identity import record_name, run_name
from ovbench.evaluation.ledger import Entry, Ledger, LedgerWriter, ledger_parts, read_header, read_ledger
from ovbench.evaluation.record import Arguments, PublishedFields, write_record
from ovbench.evaluation.scored import Count
from ovbench.utils.differences import mismatches
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.files import read_json, write_json
from ovbench.utils.text import short_text
from ovbench.utils.typed import Items, OpenTyped, validate

MERGED = "merged"  # name of the only part of a merged ledger
EQUAL = ("images", "limit", "data_sha256", "versions")  # equal in all shards of a run

AGAIN = "run its cell with --shard K/N"
MOST_SHARDS = 1_000_000  # a list of the missing ones fits in memory
ShardNumber = Annotated[int, Field(ge=1, le=MOST_SHARDS)]


class ShardManifest(OpenTyped):
    """The content of a file ``shard-KofN.json``."""

    shard: Annotated[Items[ShardNumber], Field(min_length=2, max_length=2)]
    images: list[str]
    limit: Count | None = None
    device: dict[str, Any]
    versions: dict[str, str | None]
    arguments: Arguments | None = None
    published: PublishedFields | None = None
    approximate: dict[str, Any] = Field(default_factory=dict)
    observed: dict[str, Any] = Field(default_factory=dict)


class ShardLedger(NamedTuple):
    """One shard: its folder, the header of its ledger, and the content of its ``shard-KofN.json``."""

    folder: Path
    header: dict[str, Any]
    shard: Shard
    manifest: dict[str, Any]


def leave_for_merge(folder: Path, shard: Shard, images: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Write the facts about a shard that `merge` needs.

    Args:
        folder: The ledger.
        shard: The shard.
        images: Ids of the images of all shards.
        facts: What the shards must have in common, see `EQUAL`, and facts for the record.
    """
    manifest = {"shard": list(shard), "images": list(images), **facts}
    write_json(folder / f"shard-{shard.number}of{shard.of}.json", manifest)


def merge(folders: Sequence[Path], out: Path, *, mixed_devices: bool = False) -> tuple[dict[str, Any], Path]:
    """Write one ledger and one record from cell folders with every shard exactly once.

    The names of both are computed from the header; no text from a file is used as a path.

    Args:
        folders: The cell folders.
        out: Where the ledger and the record are written.
        mixed_devices: Whether to accept shards from several models of one type of device.

    Returns:
        The record and its file.

    Raises:
        InputError: If shards are missing, duplicate or unfinished, or belong to different runs.
    """
    shards: list[ShardLedger] = []
    for one in (one for folder in folders for one in _shards(folder)):
        shards.append(one)
        _refuse_different(shards[0], one)
        if not mixed_devices:
            devices = (shards[0].manifest["device"], one.manifest["device"])
            refuse_other_devices(devices, str(one.folder), "run the shards on one model")
        one.manifest["images"] = shards[0].manifest["images"]  # equal; one list is kept for all
    _refuse_incomplete(shards)
    first = shards[0]
    entries = Ledger()
    for one in shards:
        images, found = one.shard.take(first.manifest["images"]), read_ledger(one.folder, _plain(one.header))
        _refuse_unfinished(one, images, found)
        entries.add(found.chosen(images))
    header, limit = _plain(first.header), first.manifest.get("limit")
    target = out / run_name(header)
    if target.resolve() not in {one.folder.resolve() for one in shards}:
        _write_ledger(target, header, (entries[image] for image in entries.by_run()))
    runs, about = run_summaries(entries), {"limit": limit, "shard": None}
    timing = {"merged_shards": first.shard.of, "counted": runs} | ({"started": runs[-1]["started"]} if runs else {})
    made = software_and_device(header, entries, first.manifest)
    made |= {key: first.manifest[key] for key in ("published", "approximate", "observed") if key in first.manifest}
    asked = first.manifest.get("arguments")
    arguments = {**asked, "shard": None} if isinstance(asked, dict) else None
    from ovbench.evaluation.build_record import build_record  # loads scipy, which a run of one shard does not need

    try:
        record = build_record(header, first.manifest["images"], entries, made, timing, target.name, about, arguments)
    except ValueError as error:  # of the type `Record`: a header or a manifest was changed
        what = f"the shards give no valid record: {first_line(error)}"
        raise InputError(what, where=str(first.folder), fix=AGAIN) from None
    return record, write_record(out / record_name(header, limit), record)


def _plain(header: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key != "format"}


def _shards(folder: Path) -> Iterator[ShardLedger]:
    header = read_header(folder)
    if header is None:
        raise InputError("no ledger in the folder", where=str(folder), fix="give the cell folders below --out")
    if "code" not in header:
        raise InputError("the shard is from an older version of ovbench", where=str(folder), fix="run it again")
    files = sorted(folder.glob("shard-*of*.json"), key=str)
    if not files:
        raise InputError("no shard in the folder", where=str(folder), fix=AGAIN)
    for file in files:
        manifest = read_json(file)
        validate(ShardManifest, manifest, str(file), what="the manifest of a shard", fix=AGAIN)
        try:
            run_name(header), header["code"]["packages"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"malformed ledger: {type(error).__name__}: {error}"
            raise InputError(what, where=str(folder), fix=AGAIN) from error
        yield ShardLedger(folder, header, Shard(*manifest["shard"]), manifest)


def _refuse_different(first: ShardLedger, other: ShardLedger) -> None:
    of = {"shards": first.shard.of}, {"shards": other.shard.of}
    shared = {k: first.manifest.get(k) for k in EQUAL}, {k: other.manifest.get(k) for k in EQUAL}
    for ours, theirs in ((first.header, other.header), of, shared):
        found = mismatches(ours, theirs)
        if found:
            name, a, b = found[0]
            raise InputError(
                f'the shards are of different runs: "{name}" is {short_text(a)} in {first.folder} and {short_text(b)}',
                where=str(other.folder),
                fix="run them with the same settings and software",
            )


def _refuse_incomplete(shards: Sequence[ShardLedger]) -> None:
    of, times = shards[0].shard.of, Counter(one.shard.number for one in shards)
    missing = [f"{number}/{of}" for number in range(1, of + 1) if not times[number]]
    duplicate = [f"{number}/{of}" for number, count in sorted(times.items()) if count > 1]
    problems = {"missing": missing, "duplicate": duplicate}
    what = [f"{problem} {', '.join(names)}" for problem, names in problems.items() if names]
    if what:
        raise InputError(f"not every shard exactly once: {'; '.join(what)}", fix="give every shard's folder once")


def _refuse_unfinished(one: ShardLedger, images: Sequence[str], found: Ledger) -> None:
    missing = [image for image in images if image not in found]
    if missing:
        name = f"{one.shard.number}/{one.shard.of}"
        raise InputError(
            f"shard {name} is not finished: {len(missing)} of {len(images)} images missing, the first {missing[0]}",
            where=str(one.folder), fix=f"repeat its command with --shard {name}",
        )  # fmt: skip


def _write_ledger(folder: Path, header: Mapping[str, Any], entries: Iterable[Entry]) -> None:
    parts = ledger_parts(folder)
    if not all(part.name.startswith(f"part-{MERGED}.") for part in parts):
        raise InputError("the folder has another ledger", where=str(folder), fix="choose another --out")
    for part in parts:  # from an earlier merge
        part.unlink()
    with LedgerWriter(folder, MERGED, header) as ledger:
        for entry in entries:
            ledger.add(entry)
