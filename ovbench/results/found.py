"""Records of a folder: which of them measure the same, and which must not be averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.backbones.spec import parse_spec, reference_over
from ovbench.config import Cell, file_settings, resolve
from ovbench.errors import InputError, OvbenchError
from ovbench.results.compare import unlike_settings
from ovbench.results.layouts import Run
from ovbench.results.record import read_record, value_at
from ovbench.suites import settings_over

# what must be equal for values to be averaged, and where it stands in a record
MUST_AGREE = ("dataset.label_rule", "weights", "versions.ovbench")


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
        try:
            found.append(Found(path, read_record(path)))
        except InputError:
            continue  # another JSON file
    return found


def newest(records: Iterable[Found]) -> Found | None:
    """The best record of a cell: a whole benchmark before a part, more images before fewer, then the newest."""
    return max(
        records, default=None,
        key=lambda f: (not f.partial, f.record["dataset"]["images"], f.record["time"]["started"], f.path.name),
    )  # fmt: skip


def measured_by(
    run: Run, records: Sequence[Found], columns: Sequence[str], protocol: str, settings: Mapping[str, str]
) -> dict[str, Found]:
    """By benchmark the best of the records of its method that are of exactly this run, ``settings`` laid over its own.

    A reference set is a folder of the user's: without a name in the settings every set will do, if the run asks for the
    variant of it that was used.
    """
    chosen = {}
    for column in columns:
        here = [f for f in records if f.record["cell"]["dataset"] == column]
        wanted = {
            base: comparable(resolve(run.method, column, _with_base(run, settings, base), run.weights, protocol))
            for base in {_base(found) for found in here}
        }
        best = newest(f for f in here if comparable(f.record["cell"]) == wanted[_base(f)])
        if best:
            chosen[column] = best
    return chosen


def _base(found: Found) -> str:
    """The reference set of a record without what makes a variant of it; "" where there is none."""
    return found.record["cell"]["backbones"].get("reference", "").partition("?")[0]


def _with_base(run: Run, settings: Mapping[str, str], base: str) -> dict[str, str]:
    asked = settings_over(run.settings, settings)
    if not base:
        return asked
    return {**asked, "reference": reference_over(asked["reference"], base) if "reference" in asked else base}


def comparable(cell: Cell | Mapping[str, Any]) -> dict[str, Any]:
    """A cell with short names of backbones spelled out."""
    plain = dict(cell.as_dict() if isinstance(cell, Cell) else cell)
    plain["backbones"] = {
        kind: spec if kind in ("psi", "reference") else list(map(str, parse_spec(kind, spec)))
        for kind, spec in plain["backbones"].items()
    }
    return plain


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
        deviations.setdefault(deviation(one.record["cell"]), one.record["cell"]["dataset"])
    if len(deviations) > 1:
        told = (f"{dataset}: {text or 'as published'}" for text, dataset in deviations.items())
        return "unlike settings (" + "; ".join(told) + ")"
    return ""


def deviation(cell: Mapping[str, Any]) -> str:
    """How a cell differs from its method's published settings, or from the common ones where that says it shorter."""
    texts = []
    for protocol in ("paper", "common"):
        wanted = _as_configured(cell, protocol)
        if wanted is None:
            continue
        changed = unlike_settings(comparable(wanted), comparable(cell))
        told = [f"{key.split('.', 1)[-1]}={value}" for key, _, value in changed]
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
