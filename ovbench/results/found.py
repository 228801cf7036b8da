"""Records of a folder: which of them measure the same, and which must not be averaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config.backbone_spec import options_over
from ovbench.config.load import Cell, file_settings, resolve
from ovbench.config.official import official_settings, published_label_rule
from ovbench.config.published_runs import PublishedRun
from ovbench.config.setting_changes import changes_from_published, setting_changes
from ovbench.config.suites import settings_over
from ovbench.data.card import list_cards
from ovbench.evaluation.ledger import EARLIER
from ovbench.evaluation.record import read_record, value_at
from ovbench.utils.errors import InputError, OvbenchError

# what must be equal for values to be averaged, and where it stands in a record
MUST_AGREE = ("weights", "versions.ovbench")


class Found(NamedTuple):
    """A record and the file that it was read from."""

    path: Path
    record: dict[str, Any]

    @property
    def partial(self) -> bool:
        data = self.record["dataset"]
        return self.record["status"] != "complete" or data["images"] < data["split_images"]


def find_records(folder: Path) -> list[Found]:
    """The records of a folder of runs and the folders in it. InputError where there is no such folder."""
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), fix="give the folder of `ovbench eval --out` as --runs")
    found = []
    for path in sorted(folder.rglob("*.json")):
        if EARLIER in path.relative_to(folder).parts:
            continue  # set aside by --fresh
        try:
            found.append(Found(path, read_record(path)))
        except InputError:
            continue  # another JSON file
    return found


def apart_by_data(records: Sequence[Found]) -> list[Found]:
    """The records, with the names of unlike data sets told apart: cards of users may have one name, or that of a
    shipped benchmark, and are never taken for one another."""
    kinds: dict[str, dict[str, str]] = {}
    for found in records:
        if _is_own(found.record):
            data = found.record["dataset"]
            kinds.setdefault(found.record["cell"]["dataset"], {})[_data_of(found.record)] = data["title"]
    return [_renamed(found, kinds) for found in records]


def _is_own(record: Mapping[str, Any]) -> bool:
    """Whether the data set is of a user's card; older records do not say, and are of what they are called."""
    return record["dataset"].get("card", "ovbench" if record["cell"]["dataset"] in list_cards() else "own") == "own"


def _data_of(record: Mapping[str, Any]) -> str:
    """Hash of what makes a data set, whatever part of it was scored."""
    data = record["dataset"]
    fields = ("title", "split", "classes", "background", "split_sha256", "encoding_sha256")
    return hashlib.sha256(json.dumps([data.get(field) for field in fields]).encode()).hexdigest()


def _renamed(found: Found, kinds: Mapping[str, Mapping[str, str]]) -> Found:
    name = found.record["cell"]["dataset"]
    alike = kinds.get(name, {})
    if not _is_own(found.record) or (len(alike) < 2 and name not in list_cards()):
        return found
    digest = _data_of(found.record)
    apart = alike[digest] if len(set(alike.values())) == len(alike) else digest[:8]
    cell = {**found.record["cell"], "dataset": f"{name} ({apart})"}
    return found._replace(record={**found.record, "cell": cell})


def newest(records: Iterable[Found]) -> Found | None:
    """The best record of a cell: a whole benchmark before a part, more images before fewer, then the newest."""
    return max(
        records, default=None,
        key=lambda f: (not f.partial, f.record["dataset"]["images"], f.record["time"]["started"], f.path.name),
    )  # fmt: skip


def measured_by(
    run: PublishedRun, records: Sequence[Found], columns: Sequence[str], protocol: str, settings: Mapping[str, str]
) -> dict[str, Found]:
    """By benchmark the best of the records of its method that are of exactly this run, ``settings`` laid over its own.

    A reference set is a folder of the user's: without a name in the settings every set will do, if the run asks for the
    variant of it that was used. Region maps that were read from files count as those that CorrCLIP's authors published.
    A record whose descriptions were not the paper's is of no published run. Of two records the one whose void pixels
    were counted as in the published figures is better.
    """
    chosen = {}
    for column in columns:
        here = [f for f in records if f.record["cell"]["dataset"] == column and not unlike_descriptions(f.record)]
        wanted = {
            base: resolve(run.method, column, _with_base(run, settings, base), run.weights, protocol).as_dict()
            for base in {_base(found) for found in here}
        }
        fitting = [f for f in here if not changes_from_published(wanted[_base(f)], f.record["cell"])]
        best = newest([f for f in fitting if rule_as_published(f.record)]) or newest(fitting)
        if best:
            chosen[column] = best
    return chosen


def _base(found: Found) -> str:
    """The reference set of a record without what makes a variant of it; "" where there is none."""
    return found.record["cell"]["backbones"].get("reference", "").partition("?")[0]


def _with_base(run: PublishedRun, settings: Mapping[str, str], base: str) -> dict[str, str]:
    asked = settings_over(run.settings, settings)
    if not base:
        return asked
    return {**asked, "reference": options_over(asked["reference"], base) if "reference" in asked else base}


def unlike_descriptions(record: Mapping[str, Any]) -> str:
    """What stood in for the paper's descriptions in a record; "" where nothing did or none are read."""
    cell = record["cell"]
    if not cell["protocol"].get("descriptions") or not official_settings().get((cell["method"], cell["dataset"])):
        return ""
    if "published" not in record:
        return "not recorded"
    told = record["published"]["deviations"]
    return next((one["value"] for one in told if one["setting"] == "descriptions"), "")


def rule_as_published(record: Mapping[str, Any]) -> bool:
    """Whether void pixels count as in the benchmark's published figures; on most benchmarks both rules are the same."""
    dataset = record["cell"]["dataset"]
    return published_label_rule(dataset) == "correct" or record["dataset"]["label_rule"] == "official"


def unlike(found: Sequence[Found]) -> str:
    """Why the values of these records must not be averaged; "" where they may."""
    for key in MUST_AGREE:
        values = {}
        for one in found:
            values.setdefault(str(value_at(one.record, key)), one.record["cell"]["dataset"])
        if len(values) > 1:
            return f"unlike {key} on " + " and ".join(values.values())
    deviations = {}
    for one in found:
        deviations.setdefault(told_apart(one.record), one.record["cell"]["dataset"])
    if len(deviations) > 1:
        told = (f"{dataset}: {text or 'as published'}" for text, dataset in deviations.items())
        return "unlike settings (" + "; ".join(told) + ")"
    return ""


def told_apart(record: Mapping[str, Any]) -> str:
    """How a record differs from its method's published settings: those of its cell, descriptions, and label rule."""
    descriptions = unlike_descriptions(record)
    told = [
        deviation(record["cell"]),
        f"descriptions: {descriptions}" if descriptions else "",
        "" if rule_as_published(record) else f"label rule {record['dataset']['label_rule']}",
    ]
    return ", ".join(filter(None, told))


def deviation(cell: Mapping[str, Any]) -> str:
    """How a cell differs from its method's published settings, or from the common ones where that says it shorter."""
    texts = []
    for protocol in ("paper", "common"):
        wanted = _as_configured(cell, protocol)
        if wanted is None:
            continue
        plain = wanted.as_dict() if isinstance(wanted, Cell) else wanted
        told = [str(change) for change in setting_changes(plain, cell)]
        texts.append(["protocol common"] * (protocol == "common") + told)
    return ", ".join(min(texts, key=len)) if texts else "settings of its own"


def _as_configured(cell: Mapping[str, Any], protocol: str) -> Cell | Mapping[str, Any] | None:
    """The cell without any settings; None for a method that is no longer there, or that asks for more than a reference
    set, which has no default but where a benchmark brings one. Code that a record names is not run to learn its
    defaults: of its parameters those are as configured that its settings file says."""
    if ":" in cell["method"]:
        return file_settings(cell, protocol)
    for lent in ({}, {"reference": "none"}):
        try:
            return resolve(cell["method"], cell["dataset"], lent, protocol=protocol)
        except OvbenchError:
            continue
    return None
