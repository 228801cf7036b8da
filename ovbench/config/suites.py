"""Suites: named lists of runs, such as the rows of a paper's table, from configs/suites/.

title = "..."                        title of the table
source = "..."                       paper and table
datasets = ["voc21"]                 default datasets
[shared]                             method, settings and weights of all rows
method = "corrclip"
settings = { regions = "slic" }      as with --set, but with TOML's types; a reference set "?filter=none" is a variant
                                     of the requested one
[[row]]                              label, and its own method, datasets, settings, weights
label = "- scope reconstruction"
settings = { scope = false }
[[sweep]]                            a row per value, after the other rows; {} in the label is the value
label = "{}, severity 3"
setting = "corrupt"
values = ["fog:3", "snow:3"]

Without any method, the suite runs the methods of the request. With baseline = "LABEL", tables show the drop of every
row from that row, and its mean over the rows with group = "NAME"; a sweep has its own group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from ovbench.config.backbone_spec import options_over
from ovbench.utils.errors import InputError, UsageError, unknown
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import Items, Typed, validate

Value = str | bool | int | float | Items[str | int | float]


class SharedTable(Typed):
    """Settings of all rows of a suite."""

    method: str = ""
    settings: dict[str, Value] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)


class RowTable(SharedTable):
    """One row of a suite."""

    label: Annotated[str, Field(min_length=1)]
    datasets: Items[str] = ()
    group: str = ""


class SweepTable(RowTable):
    """Rows that differ in one setting."""

    setting: str
    values: Annotated[Items[Value], Field(min_length=1)]

    def rows(self) -> list[RowTable]:
        """Return a row per value."""
        plain = {key: getattr(self, key) for key in ("method", "weights", "datasets")}
        return [
            RowTable(
                label=self.label.replace("{}", str(value)), group=self.group,
                settings={**self.settings, self.setting: value}, **plain,
            )
            for value in self.values
        ]  # fmt: skip


class SuiteFile(Typed):
    """A file in configs/suites/."""

    title: str = ""
    source: str = ""
    datasets: Items[str] = ()
    shared: SharedTable = SharedTable()
    baseline: str = ""
    row: Items[RowTable] = ()
    sweep: Items[SweepTable] = ()

    @property
    def rows(self) -> tuple[RowTable, ...]:
        """Return all rows."""
        return (*self.row, *(row for sweep in self.sweep for row in sweep.rows()))

    @model_validator(mode="after")
    def _has_rows(self) -> SuiteFile:
        labels = [row.label for row in self.rows]
        if not labels:
            raise ValueError('"row" is missing')
        if self.baseline and self.baseline not in labels:
            raise ValueError(f'"baseline" is "{self.baseline}", which is the label of no row')
        return self


class SuiteRow(NamedTuple):
    """One run: ``overrides`` as for `ovbench.config.load.resolve`, ``weights`` as with ``--weights``."""

    label: str
    method: str
    dataset: str
    overrides: dict[str, Any]
    weights: dict[str, str]


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package."""
    return sorted(path.stem for path in shipped("configs", "suites").glob("*.toml"))


def suite_heading(name: str) -> tuple[str, str]:
    """Return title and source of a suite."""
    suite = _read(name)
    return suite.title or name, suite.source


class SuiteGroups(NamedTuple):
    """The baseline of a suite, and the group of each row by its label."""

    baseline: str
    groups: dict[str, str]


def suite_groups(name: str) -> SuiteGroups:
    """Return the baseline of a suite, "" if it has none, and the groups of its rows."""
    suite = _read(name)
    return SuiteGroups(suite.baseline, {row.label: row.group for row in suite.rows})


def load_suite(
    name: str,
    datasets: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    weights: Mapping[str, str] | None = None,
    methods: Sequence[str] = (),
) -> list[SuiteRow]:
    """Return the runs of a suite, row by row and for each row dataset by dataset.

    A row with its own weights is skipped on a dataset with its own backbones, such as ``mini``.

    Args:
        name: Name of a shipped suite, or a TOML file.
        datasets: Datasets instead of the suite's own.
        overrides: Settings that override those of every row.
        weights: Backbones that override those of every row.
        methods: Methods of a suite that names none.

    Raises:
        UsageError: If the suite is not known, or methods are missing or given twice.
        InputError: If its file is malformed or no run is left.
    """
    suite, file = _read(name), Path(name).name
    found: list[SuiteRow] = []
    named = any(row.method or suite.shared.method for row in suite.rows)
    if named and methods:
        raise UsageError("a suite names its own methods", where="--suite", fix="remove --method")
    if not named and not methods:
        raise UsageError("the suite names no method", where=file, fix="give --method")
    for number, row in enumerate(suite.rows):
        own = row.method or suite.shared.method
        if named and not own:
            raise InputError("a row needs a label and a method", where=f"{file}, row[{number}]")
        own_weights = {**suite.shared.weights, **row.weights}
        settings = settings_over({**suite.shared.settings, **row.settings}, overrides or {})
        found += [
            SuiteRow(row.label, method, dataset, settings, own_weights | dict(weights or {}))
            for method in ([own] if own else methods)
            for dataset in (datasets or row.datasets or suite.datasets)
            if not (own_weights and _own_backbones(dataset))
        ]
    if not found:
        raise InputError("no run is left", where=file, fix="give a dataset with --dataset")
    return found


def settings_over(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's settings, overridden by others."""
    merged = {**own, **given}
    options = {key: text for key, text in own.items() if key in given and str(text).startswith("?")}
    return merged | {key: options_over(text, given[key]) for key, text in options.items()}


def _read(name: str) -> SuiteFile:
    path = Path(name) if name.endswith(".toml") else shipped("configs", "suites", f"{name}.toml")
    if not path.is_file() and not name.endswith(".toml"):
        raise unknown("suite", name, suite_names())
    suite = validate(SuiteFile, read_toml(path), path.name)
    labels = [row.label for row in suite.rows]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f'two rows have the same label "{label}"', where=path.name)
    return suite


def _own_backbones(dataset: str) -> bool:
    common = read_toml(shipped("configs", "common.toml"))
    return "backbones" in common.get("benchmark", {}).get(dataset, {})
