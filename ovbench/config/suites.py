"""Suites: named lists of runs, such as the rows of a paper's table, as data in configs/suites/.

title = "..."                        what the table shows
source = "..."                       where it comes from
datasets = ["voc21"]                 benchmarks, unless others are asked for
[shared]                             what every row has: method, settings, weights
method = "corrclip"
settings = { regions = "slic" }      as after --set, but with TOML's types; a reference set "?filter=none" is a variant
                                     of the one that is asked for
[[row]]                              label, and what differs: method, datasets, settings, weights
label = "- scope reconstruction"
settings = { scope = false }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config.backbone_spec import reference_over
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml, refuse_unknown_keys

KEYS = ("title", "source", "datasets", "shared", "row")
SHARED_KEYS = ("method", "settings", "weights")
ROW_KEYS = ("label", *SHARED_KEYS, "datasets")


class SuiteRow(NamedTuple):
    """One run: ``overrides`` as after ``--set``, ``weights`` as after ``--weights``."""

    label: str
    method: str
    dataset: str
    overrides: dict[str, str]
    weights: dict[str, str]


def suite_names() -> list[str]:
    """The suites that come with the package."""
    return sorted(path.stem for path in shipped("configs", "suites").glob("*.toml"))


def suite_heading(name: str) -> tuple[str, str]:
    """A suite's title and where it comes from."""
    table = _read(name)
    return table.get("title", name), table.get("source", "")


def load_suite(
    name: str,
    datasets: Sequence[str] = (),
    overrides: Mapping[str, str] | None = None,
    weights: Mapping[str, str] | None = None,
) -> list[SuiteRow]:
    """The runs of a suite, row by row and for each row benchmark by benchmark.

    ``name`` is that of a shipped suite or a TOML file; ``datasets`` replaces the suite's own; ``overrides`` and
    ``weights`` are laid over every row. A row with weights of its own is left out on a benchmark that comes with its
    own backbones, as ``mini`` does: there are none to exchange. UsageError for an unknown name, InputError for a
    malformed file.
    """
    table, file = _read(name), Path(name).name
    shared = table.get("shared", {})
    refuse_unknown_keys(shared, SHARED_KEYS, f"{file}, shared")
    found: list[SuiteRow] = []
    for number, row in enumerate(_rows(table, file)):
        where = f"{file}, row[{number}]"
        refuse_unknown_keys(row, ROW_KEYS, where)
        label, method = row.get("label"), row.get("method", shared.get("method"))
        if not label or not method:
            raise InputError("a row needs a label and a method", where=where)
        own_weights = {**shared.get("weights", {}), **row.get("weights", {})}
        settings = {**shared.get("settings", {}), **row.get("settings", {})}
        texts = {key: _text(value, key, where) for key, value in settings.items()}
        found += [
            SuiteRow(label, method, dataset, settings_over(texts, overrides or {}), own_weights | dict(weights or {}))
            for dataset in (datasets or row.get("datasets") or table.get("datasets", ()))
            if not (own_weights and _own_backbones(dataset))
        ]
    if not found:
        raise InputError("no run is left", where=file, fix="name a benchmark with --dataset")
    return found


def settings_over(own: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """A row's settings with others laid over them."""
    merged = {**own, **given}
    if "reference" in own and "reference" in given:
        merged["reference"] = reference_over(own["reference"], given["reference"])
    return merged


def _read(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith(".toml") else shipped("configs", "suites", f"{name}.toml")
    if not path.is_file() and not name.endswith(".toml"):
        raise unknown("suite", name, suite_names())
    table = read_toml(path)
    refuse_unknown_keys(table, KEYS, path.name)
    return table


def _rows(table: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    rows = table.get("row")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("a suite needs [[row]] tables", where=where)
    labels = [row.get("label") for row in rows]
    if len(set(labels)) < len(labels):
        raise InputError("two rows have the same label", where=where)
    return rows


def _own_backbones(dataset: str) -> bool:
    common = read_toml(shipped("configs", "common.toml"))
    return "backbones" in common.get("benchmark", {}).get(dataset, {})


def _text(value: Any, key: str, where: str) -> str:
    """A TOML value as it would stand after ``--set``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(_text(part, key, where) for part in value)
    if isinstance(value, (str, int, float)):
        return str(value)
    raise InputError(f'"{key}" must be a text, a number, a list or true or false', where=where)
