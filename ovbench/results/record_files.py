"""Find the records below a folder, select those of a run, and refuse averages over different settings."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config import PROTOCOLS
from ovbench.config.backbone_spec import options_over
from ovbench.config.load import Cell, file_settings, resolve
from ovbench.config.official import official_settings, published_label_rule
from ovbench.config.published_runs import PublishedRun
from ovbench.config.published_weights import published
from ovbench.config.schema import SCORED
from ovbench.config.setting_changes import changes_from_published, setting_changes, with_official
from ovbench.config.suites import settings_over
from ovbench.data.shipped_cards import known_cards
from ovbench.evaluation.record import is_bundle, is_record, read_record, value_at
from ovbench.regions.official_files import official_regions
from ovbench.results.bundle import record_files
from ovbench.utils.errors import InputError, OvbenchError
from ovbench.utils.files import read_json

BANK, NO_BANKS = "support", ("none", "mini")  # the backbone that is a bank of regions, and its names without files


class RecordFile(NamedTuple):
    """A record and the file that it was read from."""

    path: Path
    record: dict[str, Any]

    @property
    def partial(self) -> bool:
        """Return whether only a part of the benchmark was scored."""
        data = self.record["dataset"]
        return self.record["status"] != "complete" or data["images"] < data["split_images"]


def find_records(folder: Path) -> list[RecordFile]:
    """Read all records and bundles below a folder of runs; what cannot be read is named in a warning and skipped.

    Raises:
        InputError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), fix="give the folder of `ovbench eval --out`")
    found: list[RecordFile] = []
    for path in record_files(folder):
        try:
            if is_bundle(path) or is_record(read_json(path)):
                one = RecordFile(path, read_record(path))
                if not (is_bundle(path) and any(one.record == other.record for other in found)):  # beside its record
                    found.append(one)
        except InputError as error:
            logging.getLogger("ovbench").warning("skipped: %s", error)
    return found


def records_at(*paths: Path) -> list[RecordFile]:
    """Read records, and all records below folders (see `find_records`), each file once."""
    found = [one for path in paths for one in _below(path)]
    return list({one.path.resolve(): one for one in found}.values())


def _below(path: Path) -> list[RecordFile]:
    return find_records(path) if path.is_dir() or not path.suffix else [RecordFile(path, read_record(path))]


def apart_by_data(records: Sequence[RecordFile]) -> list[RecordFile]:
    """Return the records with a different dataset name for each different dataset.

    Two cards of users may have the same name, or the name of a shipped benchmark.
    """
    kinds: dict[str, dict[str, str]] = {}
    for found in records:
        if _is_own(found.record):
            data = found.record["dataset"]
            kinds.setdefault(found.record["cell"]["dataset"], {})[_data_of(found.record)] = data["title"]
    return [_renamed(found, kinds) for found in records]


def _is_own(record: Mapping[str, Any]) -> bool:
    """Return whether the dataset has a user's card; for older records without this field, the name decides."""
    return record["dataset"].get("card", "ovbench" if record["cell"]["dataset"] in known_cards() else "own") == "own"


def _data_of(record: Mapping[str, Any]) -> str:
    """Return a hash of the dataset, which does not depend on the part that was scored."""
    data = record["dataset"]
    fields = ("title", "split", "classes", "background", "split_sha256", "encoding_sha256")
    return hashlib.sha256(json.dumps([data.get(field) for field in fields]).encode()).hexdigest()


def _renamed(found: RecordFile, kinds: Mapping[str, Mapping[str, str]]) -> RecordFile:
    name = found.record["cell"]["dataset"]
    alike = kinds.get(name, {})
    if not _is_own(found.record) or (len(alike) < 2 and name not in known_cards()):
        return found
    digest = _data_of(found.record)
    apart = alike[digest] if len(set(alike.values())) == len(alike) else digest[:8]
    cell = {**found.record["cell"], "dataset": f"{name} ({apart})"}
    return found._replace(record={**found.record, "cell": cell})


def newest(records: Iterable[RecordFile]) -> RecordFile | None:
    """Return the best record of a cell: complete before partial, then more images, then the newest."""
    return max(
        records, default=None,
        key=lambda f: (not f.partial, f.record["dataset"]["images"], f.record["time"]["started"], f.path.name),
    )  # fmt: skip


def records_of_run(
    run: PublishedRun, records: Sequence[RecordFile], columns: Sequence[str], protocol: str, settings: Mapping[str, str]
) -> dict[str, RecordFile]:
    """Select for each benchmark the best record that measured a published run.

    Any reference set matches a run that does not name one, but its options must be those of the run. Precomputed region
    maps count as those that CorrCLIP's authors published. A file of the user counts as the published weights whose hash
    it has. A record without the paper's descriptions, with a user's class list, or with a region network that is not
    the published file, never matches.
    Records that count void pixels as the published figures do come first.

    Args:
        run: The published run.
        records: Records of its method.
        columns: Names of the benchmarks.
        protocol: Protocol of the records.
        settings: Settings that replace those of the run.

    Returns:
        The records by benchmark; a benchmark without a record is missing.
    """
    chosen = {}
    for column in columns:
        here = [f for f in records if f.record["cell"]["dataset"] == column and _as_described(f.record)]
        wanted = {
            base: resolve(run.method, column, _with_base(run, settings, base), run.weights, protocol).as_dict()
            for base in {_base(found) for found in here}
        }
        fitting = [f for f in here if not changes_from_published(wanted[_base(f)], official_cell(f.record))]
        best = newest([f for f in fitting if rule_as_published(f.record)]) or newest(fitting)
        if best:
            chosen[column] = best
    return chosen


def _base(found: RecordFile) -> str:
    """Return the reference set of a record without its options, "" if there is none."""
    return found.record["cell"]["backbones"].get("reference", "").partition("?")[0]


def _with_base(run: PublishedRun, settings: Mapping[str, str], base: str) -> dict[str, str]:
    asked = settings_over(run.settings, settings)
    if not base:
        return asked
    return {**asked, "reference": options_over(asked["reference"], base) if "reference" in asked else base}


def _as_described(record: Mapping[str, Any]) -> bool:
    return not other_descriptions(record) and not other_classes(record) and not other_region_weights(record)


def official_cell(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cell of a record in which files have the names of the published weights that they are."""
    names = {name: one.get("official") for name, one in record["weights"].items()}
    regions = record["cell"]["regions"]
    if used := record.get("files", {}).get("regions.weights_sha256"):
        regions = official_regions(regions, used)
    return with_official(record["cell"], names, regions)


def other_region_weights(record: Mapping[str, Any]) -> str:
    """Return the hash of the region network's file if it has the name of a published file and other bytes, else ""."""
    regions, used = record["cell"]["regions"], record.get("files", {}).get("regions.weights_sha256")
    entry = published("sam").get(regions.get("model", ""), {}) if not regions.get("weights") else {}
    return used if entry and used and used != entry.get("sha256") else ""


def unverified_weights(record: Mapping[str, Any]) -> list[str]:
    """Return weights and banks known by their name only, because the hash of the published ones is not known."""
    named = ((name, one, published(name).get(one["name"], {})) for name, one in record["weights"].items())
    by_hand = [
        (name, one)
        for name, one, entry in named
        if ("url" in entry and "sha256" not in entry) or (name == BANK and one["name"] not in NO_BANKS)
    ]
    return [f"{name} {one['name']} ({one['sha256'][:12]})" for name, one in by_hand]


def other_classes(record: Mapping[str, Any]) -> str:
    """Return the user's class list of a record; "" for a list of the dataset."""
    asked = value_at(record, "arguments.classes")
    return record["dataset"].get("class_list") or (Path(asked).name if asked else "")


def other_descriptions(record: Mapping[str, Any]) -> str:
    """Return what replaced the paper's descriptions in a record; "" if nothing, or if none are used."""
    cell = record["cell"]
    if not cell["protocol"].get("descriptions") or not official_settings().get((cell["method"], cell["dataset"])):
        return ""
    if "published" not in record:
        return "not recorded"
    deviations = record["published"]["deviations"]
    return next((one["value"] for one in deviations if one["setting"] == "descriptions"), "")


def rule_as_published(record: Mapping[str, Any]) -> bool:
    """Return whether a record counts void pixels as the published figures of its benchmark do."""
    dataset = record["cell"]["dataset"]
    return published_label_rule(dataset) == "correct" or record["dataset"]["label_rule"] == "official"


def why_not_averaged(found: Sequence[RecordFile]) -> str:
    """Return why the values of these records must not be averaged; "" if they may be."""
    weights: dict[str, RecordFile] = {}
    code: dict[str, RecordFile] = {}
    for one in found:
        weights.setdefault(str({kind: used["sha256"] for kind, used in one.record["weights"].items()}), one)
        code.setdefault(_code_of(one.record), one)
    if len(weights) > 1:
        return "different weights on " + _datasets(weights)
    if len(code) > 1:
        versions = {key: value_at(one.record, "versions.ovbench", "") for key, one in code.items()}
        named = versions if len(set(versions.values())) > 1 else {key: key[:8] for key in code}
        return f"different code of ovbench ({', '.join(named.values())}) on " + _datasets(code)
    deviations: dict[str, str] = {}
    for one in found:
        deviations.setdefault(deviations_of(one.record), one.record["cell"]["dataset"])
    if len(deviations) > 1:
        texts = (f"{dataset}: {text or 'as published'}" for text, dataset in deviations.items())
        return "different settings (" + "; ".join(texts) + ")"
    return ""


def _code_of(record: Mapping[str, Any]) -> str:
    """Return a hash of the code that can change a label; older records have only the version."""
    return str(value_at(record, "code.ovbench") or value_at(record, "versions.ovbench", "unknown"))


def _datasets(by_value: Mapping[str, RecordFile]) -> str:
    return " and ".join(one.record["cell"]["dataset"] for one in by_value.values())


def deviations_of(record: Mapping[str, Any]) -> str:
    """Return how the cell, the descriptions and the label rule of a record differ from the published ones, as text."""
    descriptions, classes = other_descriptions(record), other_classes(record)
    texts = [
        deviation(official_cell(record), _protocols(record), (record.get("arguments") or {}).get("like")),
        f"classes: {classes}" if classes else "",
        f"descriptions: {descriptions}" if descriptions else "",
        f"weights of the regions: {other[:12]}" if (other := other_region_weights(record)) else "",
        "" if rule_as_published(record) else f"label rule {record['dataset']['label_rule']}",
    ]
    return ", ".join(filter(None, texts))


def _protocols(record: Mapping[str, Any]) -> Sequence[str]:
    """Return the protocol of a record; all protocols if it was not recorded."""
    asked = record.get("arguments")
    return PROTOCOLS if asked is None else [asked.get("protocol", PROTOCOLS[0])]


def deviation(cell: Mapping[str, Any], protocols: Sequence[str] = PROTOCOLS, like: str | None = None) -> str:
    """Return how a cell differs from the settings of its protocol, or of the protocol with the shortest text.

    ``like`` is the benchmark whose settings the cell was asked to have.
    """
    if cell["method"].endswith(SCORED):
        return "" if cell["params"]["encoding"] == "index" else f"encoding {cell['params']['encoding']}"
    texts: list[list[str]] = []
    for protocol in protocols:
        wanted = _as_configured(cell, protocol, like)
        if wanted is None:
            continue
        plain = wanted.as_dict() if isinstance(wanted, Cell) else wanted
        changes = [str(change) for change in setting_changes(plain, cell)]
        texts.append(["protocol common"] * (protocol == "common") + changes)
    shortest = min(texts, key=len, default=["other settings"])
    return ", ".join(shortest)


def _as_configured(cell: Mapping[str, Any], protocol: str, like: str | None) -> Cell | Mapping[str, Any] | None:
    """Return the cell without user settings, None if it cannot be resolved on this machine.

    The code of a method in a file is not run: only its settings file is read.
    """
    if ":" in cell["method"]:
        return file_settings(cell, protocol, like)
    for given in ({}, {"reference": "none"}):
        try:
            return resolve(cell["method"], cell["dataset"], given, protocol=protocol, like=like)
        except OvbenchError:
            continue
    return None
