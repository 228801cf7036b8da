"""Check a record that was handed in: complete, of a known benchmark, with its own scores and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config.backbone_spec import toy_note
from ovbench.config.load import cell_of
from ovbench.data.card import list_cards, load_card
from ovbench.evaluation.record import EARLIER, is_record, value_at
from ovbench.results.record_counts import read_counts
from ovbench.results.record_files import RecordFile, deviations_of, records_at
from ovbench.results.run_names import run_facts
from ovbench.utils.errors import InputError, OvbenchError
from ovbench.utils.files import read_json

PASS, FAIL, NOTE = "pass", "fail", "note"


class RecordCheck(NamedTuple):
    """A check with its verdict: "pass", "fail", or "note" for what a reader must know."""

    name: str
    verdict: str
    detail: str


def check_files(paths: Sequence[Path]) -> dict[str, list[RecordCheck]]:
    """Check records, and all records of folders, by file; a file that cannot be read is refused.

    Raises:
        InputError: If there is no record.
    """
    files = [file for path in paths for file in (_candidates(path) if path.is_dir() else [path])]
    if not files:
        raise InputError("no record", where=", ".join(map(str, paths)), fix="give the files of `ovbench eval --out`")
    results = {}
    for file in files:
        try:
            results[str(file)] = [check for found in records_at(file) for check in check_record(found)]
        except InputError as error:
            results[str(file)] = [RecordCheck("scores", FAIL, error.what)]
    return results


def _candidates(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*.json")) if _may_be_record(file)]


def _may_be_record(file: Path) -> bool:
    try:
        return EARLIER not in file.parts and is_record(read_json(file))
    except InputError:
        return True


def check_record(found: RecordFile) -> list[RecordCheck]:
    """Check a record that could be read, so that its schema and scores are right.

    Args:
        found: The record; its ledger is checked if it is beside it.

    Returns:
        All checks, whatever their verdict.
    """
    record = found.record
    return [
        RecordCheck("scores", PASS, "follow from the counts of every class"),
        _complete(record), _benchmark(record), _settings(record), _code(record), _networks(record), _ledger(found),
    ]  # fmt: skip


def _complete(record: Mapping[str, Any]) -> RecordCheck:
    data = record["dataset"]
    problems = [f"status {record['status']}"] * (record["status"] != "complete")
    if data["images"] != data["split_images"]:
        problems.append(f"{data['images']} of {data['split_images']} images")
    problems += [f"{name} was given" for name in ("limit", "shard", "subset_sha256") if data.get(name) is not None]
    problems += [f"{len(record['failed'])} failed images"] * bool(record["failed"])
    return RecordCheck("complete", FAIL if problems else PASS, ", ".join(problems) or f"{data['images']} images")


def _benchmark(record: Mapping[str, Any]) -> RecordCheck:
    data, name = record["dataset"], record["cell"]["dataset"]
    if name not in list_cards() or data.get("card", "ovbench") != "ovbench":
        return RecordCheck("benchmark", FAIL, f"{name} is a user's card: only benchmarks of ovbench are collected")
    card, problems = load_card(name), []
    if list(card.classes) != data["classes"]:
        problems.append("other classes than the card")
    if card.background != data["background"]:
        problems.append("another background class than the card")
    if card.image_count != data["split_images"]:
        problems.append(f"a split of {data['split_images']} images, the card has {card.image_count}")
    if data.get("split_sha256") and data["ids_sha256"] != data["split_sha256"]:
        problems.append("other image ids than its split")
    if card.split != data["split"]:
        problems.append(f"split {data['split']}, the card has {card.split}")
    return RecordCheck("benchmark", FAIL if problems else PASS, "; ".join(problems) or card.title)


def _settings(record: Mapping[str, Any]) -> RecordCheck:
    method = record["cell"]["method"]
    if ":" in method:
        return RecordCheck("settings", NOTE, f"{method} is code outside ovbench, which is not run here")
    try:
        cell = cell_of(record["cell"])
    except OvbenchError as error:
        return RecordCheck("settings", FAIL, str(error))
    if cell.digest() != record["settings_sha256"]:
        return RecordCheck("settings", FAIL, "settings_sha256 is not the hash of the cell")
    said = ", ".join(filter(None, [deviations_of(record), *run_facts(record)]))
    return RecordCheck("settings", NOTE if said else PASS, said or "as published or as in ovbench's files")


def _code(record: Mapping[str, Any]) -> RecordCheck:
    git = record.get("git") or {}
    commits = {one.get("commit") for one in value_at(record, "time.counted", []) or []}
    if not git.get("commit"):
        return RecordCheck("code", NOTE, f"no commit; ovbench {record['versions'].get('ovbench') or 'unknown'}")
    if git.get("modified"):
        return RecordCheck("code", FAIL, f"commit {git['commit'][:12]} with local changes")
    if len(commits) > 1:
        return RecordCheck("code", FAIL, f"images were counted with {len(commits)} commits; run once with --fresh")
    return RecordCheck("code", PASS, f"commit {git['commit'][:12]}")


def _networks(record: Mapping[str, Any]) -> RecordCheck:
    cell, drawn = record["cell"], record["dataset"]["layout"] == "generated"
    notes = [*(record.get("notes") or []), "" if drawn else toy_note(cell["backbones"])]
    notes += [f"no hash of {kind}" for kind in cell["backbones"] if kind not in record["weights"]]
    if any(notes):
        return RecordCheck("networks", FAIL, "; ".join(dict.fromkeys(filter(None, notes))))
    names = ", ".join(f"{kind} {one['name']} ({one['sha256'][:12]})" for kind, one in record["weights"].items())
    approximate = ", ".join(record.get("approximate") or {})
    if approximate:
        return RecordCheck("networks", NOTE, f"{names}; approximate: {approximate}")
    return RecordCheck("networks", PASS if names else FAIL, names or "no hash of any network")


def _ledger(found: RecordFile) -> RecordCheck:
    try:
        counted = read_counts(found.path, found.record)
    except InputError as error:
        missing = "no ledger" in error.what
        return RecordCheck("ledger", NOTE if missing else FAIL, error.what)
    return RecordCheck("ledger", PASS, f"{len(counted.counts)} images have the counts of the record")
