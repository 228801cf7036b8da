"""Tables of papers, as data in configs/tables/.

    title = "..."; source = "..."; note = "..."
    columns = ["voc21", "pc60"]          benchmarks (or other columns) in the paper's order
    metric = "pAcc"                      metric of the figures, default mIoU; see docs/metrics.md
    average = false                      no column for the mean over all columns
    lower_is_better = ["latency (s)"]    columns whose smallest value is best
    overall = "Mean"                     column with the mean over the sets of all columns of [benchmarks]
    [benchmarks]                         sets whose mean a column is: benchmarks, or lists of benchmarks with one mean
    General = ["mess-bdd100k"]
    [[group]]                            a block of rows
    title = "ViT-B/16"
    reported_by = "..."                  a table of results/published/results.csv: all its rows, or only those with
    methods = [...]                      these methods, variants, postprocess or groups; or single rows:
    [[group.row]]
    label = "..."                        with reported_by, method, variant, postprocess

Rows of other files, such as ablations:

    [[group]]
    figures = "ablations"                the file; where = { field = "value" } selects rows; reported_by = the table of
                                         results.csv with the same protocol, if rows have runs
    suite = "..."                        the suite that measures the rows; without figures, nothing is published
    [[group.row]]                        by default, all rows of the file or of the suite
    label = "..."                        label of the row, also in the suite unless suite_row = "..." is given
    setting = "..."                      name of the row in the file, if it is there

The run of ovbench that reproduces a row of results.csv is given in configs/published_runs.toml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from ovbench.config.published_runs import PublishedRun, RowKey, published_runs
from ovbench.config.suites import load_suite
from ovbench.metrics.named import Metric, parse_metric
from ovbench.results.published import PAS_20B, PublishedFigure, figures, published_results, read_published
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import Items, Typed, validate

FILTERS = {"methods": "method", "variants": "variant", "postprocess": "postprocess", "groups": "group"}
Entry = str | Items[str]  # a set: a benchmark, or several with one mean
NOT_COMPARABLE = "[protocol?]"


class RowOfGroup(Typed):
    """A table [[group.row]] of a layout."""

    label: str | None = None
    reported_by: str | None = None
    method: str | None = None
    variant: str | None = None
    postprocess: str | None = None
    setting: str | None = None
    suite_row: str | None = None


class LayoutGroup(Typed):
    """A table [[group]] of a layout."""

    title: str
    reported_by: str | None = None
    figures: str | None = None
    where: dict[str, str | Items[str]] = Field(default_factory=dict)
    suite: str | None = None
    methods: Items[str] | None = None
    variants: Items[str] | None = None
    postprocess: Items[str] | None = None
    groups: Items[str] | None = None
    row: Items[RowOfGroup] = ()

    @model_validator(mode="after")
    def _named(self) -> LayoutGroup:
        if (self.figures or self.suite) and any(row.label is None for row in self.row):
            raise ValueError('needs a "label" in every row')
        return self


class LayoutFile(Typed):
    """A file in configs/tables/."""

    title: str | None = None
    source: str = ""
    note: str = ""
    columns: Annotated[Items[str], Field(min_length=1)]
    metric: str = "mIoU"
    average: bool = True
    lower_is_better: Items[str] = ()
    benchmarks: dict[str, Items[Entry]] = Field(default_factory=dict)
    overall: str = ""
    group: Annotated[Items[LayoutGroup], Field(min_length=1)]

    @model_validator(mode="after")
    def _known(self) -> LayoutFile:
        for column in self.lower_is_better:
            if column not in self.columns:
                raise ValueError(f'"lower_is_better" names "{column}", which is no column')
        for column in (*self.benchmarks, *filter(None, [self.overall])):
            if column not in self.columns:
                raise ValueError(f'"benchmarks" or "overall" names "{column}", which is no column')
        return self


class PrintedAverage(NamedTuple):
    """The average of a row as printed, and whether the printed values, as rounded, can have it."""

    value: str | None
    fits: bool


@dataclass(frozen=True)
class LayoutRow:
    """A row of a table.

    Attributes:
        group: Title of its block.
        label: Name of the method or setting.
        detail: Variant and postprocessing.
        published: Figures as printed, by column.
        printed_average: The average as printed, None if the paper has none.
        average_fits: Whether the printed values, as rounded, can have that average.
        run: The run of ovbench that measures the row, None if there is none.
        mixed: Whether the published values have different protocols.
        other: The run of the same method, if the table measured it with a protocol of its own.
        rules: Metric of the figures that follow another rule than the table, by column.
    """

    group: str
    label: str
    detail: str
    published: Mapping[str, str]
    printed_average: str | None = None
    average_fits: bool = False
    run: PublishedRun | None = None
    mixed: bool = False
    other: PublishedRun | None = None
    rules: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableLayout:
    """A table of a paper.

    Attributes:
        title: Title.
        source: Paper and table.
        note: Remarks.
        columns: Names of the columns.
        rows: The rows.
        metric: Field of a record's metrics.
        average: Whether the table has a column for the mean over all columns.
        lower_is_better: Columns whose smallest value is best.
        benchmarks: The sets whose mean a column is.
        overall: Column with the mean over all these sets; "" for none.
    """

    title: str
    source: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[LayoutRow, ...]
    metric: str = "mIoU"
    average: bool = True
    lower_is_better: tuple[str, ...] = ()
    benchmarks: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    overall: str = ""


def layout_names() -> list[str]:
    """Return the names of the shipped layouts."""
    return sorted(path.stem for path in shipped("configs", "tables").glob("*.toml"))


def load_layout(name: str, datasets: Sequence[str] = (), metric: Metric | None = None) -> TableLayout:
    """Read a shipped layout or a TOML file.

    Args:
        name: Name of a shipped layout, or a path that ends in ".toml".
        datasets: Columns to show instead of its own.
        metric: The metric to show instead of its own, with the published figures of this metric.

    Raises:
        InputError: If the file is malformed.
        UsageError: If the name is unknown.
    """
    path = Path(name) if name.endswith(".toml") else shipped("configs", "tables", f"{name}.toml")
    if not path.is_file() and not name.endswith(".toml"):
        raise unknown("layout", name, layout_names())
    file = validate(LayoutFile, read_toml(path), path.name)
    own = parse_metric(file.metric, path.name).name
    columns = tuple(datasets) or file.columns
    rows = tuple(row for group in file.group for row in _group_rows(group, columns, path.name))
    if metric is not None and metric.name != own:
        rows, own = tuple(_with_other_figures(row, metric.name, columns) for row in rows), metric.name
    return TableLayout(
        file.title or name, file.source, file.note, columns, rows, own, file.average, file.lower_is_better,
        file.benchmarks, file.overall,
    )  # fmt: skip


def _with_other_figures(row: LayoutRow, metric: str, columns: tuple[str, ...]) -> LayoutRow:
    """Return the row with the published figures of another metric of the same method and variant."""
    found = {
        one["benchmark"]: one["value"]
        for one in read_published("other_metrics")
        if (one["method"], one["variant"]) == (row.label, row.detail) and parse_metric(one["metric"]).name == metric
    }
    same = {column: value for column, value in row.published.items() if row.rules.get(column) == metric}
    shown = {column: value for column, value in {**found, **same}.items() if column in columns}
    return replace(row, published=shown, printed_average=None, average_fits=False, rules={})


def published_layout() -> TableLayout:
    """Return one table of all published rows, grouped by the table that reports them."""
    columns = tuple(dict.fromkeys(row.benchmark for row in _results() if row.benchmark != PAS_20B))
    rows = tuple(_published_row(str(key[0]), key, columns, "results.csv") for key in _results_by_row())
    return TableLayout("published figures", "", "", columns, rows, average=False)


def _group_rows(group: LayoutGroup, columns: tuple[str, ...], where: str) -> Iterator[LayoutRow]:
    if group.figures or group.suite:
        yield from _figure_rows(group, columns, where)
    elif group.row:
        for row in group.row:
            keys = (row.reported_by or group.reported_by, row.method, row.variant, row.postprocess)
            made = _published_row(group.title, keys, columns, where, row.label)
            yield made if group.reported_by else replace(made, detail=f"{made.detail}; {keys[0]}")
    else:
        wanted = {field: values for key, field in FILTERS.items() if (values := getattr(group, key)) is not None}
        found = [
            (r.reported_by, r.method, r.variant, r.postprocess)
            for r in _results()
            if r.reported_by == group.reported_by and all(getattr(r, f) in v for f, v in wanted.items())
        ]
        if not found:
            raise InputError(f'no published row for the group "{group.title}"', where=where)
        for keys in dict.fromkeys(found):
            yield _published_row(group.title, keys, columns, where)


def _published_row(
    title: str, keys: tuple[str | None, ...], columns: tuple[str, ...], where: str, label: str | None = None
) -> LayoutRow:
    rows = _results_by_row().get(keys)
    if not rows:
        raise InputError(f'no published row "{", ".join(map(str, keys))}"', where=where)
    reported_by, method, variant, postprocess = rows[0].reported_by, *map(str, keys[1:])
    values = {r.benchmark: r.value for r in rows if r.benchmark in columns}
    refined = "" if postprocess == "none" else f", {postprocess}"
    return LayoutRow(
        title, label or method, f"{variant}{refined}", values, *_printed_average(keys, columns),
        **_runs_of((method, variant, postprocess), reported_by),
        mixed=any(NOT_COMPARABLE in r.note for r in rows if r.benchmark in columns),
        rules={r.benchmark: rule for r in rows if r.benchmark in columns and (rule := rule_of(r.note))},
    )  # fmt: skip


def _runs_of(key: RowKey, reported_by: str) -> dict[str, Any]:
    """Return the run that measures a row of a table, or the run of its method with another protocol."""
    run = published_runs().get(key)
    return {"run" if run is None or reported_by in run.sources else "other": run}


def _figure_rows(group: LayoutGroup, columns: tuple[str, ...], where: str) -> Iterator[LayoutRow]:
    """Yield the rows of another file with the runs of a suite, or with the published runs of the same name."""
    found = figures(group.figures, group.where, where) if group.figures else {}
    runs = {}
    if group.suite:  # "" instead of a benchmark, because on some the suite leaves rows out
        runs = {r.label: PublishedRun(r.method, r.overrides, r.weights) for r in load_suite(group.suite, [""])}
    if not group.row:
        for (label, detail), values in (found or {(name, ""): {} for name in runs}).items():
            key = (label, detail, "none")
            which: dict[str, Any] = {"run": runs.get(label)} if runs else _runs_of(key, group.reported_by or "")
            yield _figure_row(LayoutRow(group.title, label, detail, values, **which), columns)
    for row in group.row:
        label, values = row.label or "", {}
        records_of_run = row.suite_row or label
        if row.setting:
            values = next((cells for (name, _), cells in found.items() if name == row.setting), {})
            if not values:
                raise unknown("published figure", row.setting, {name for name, _ in found}, where=where)
        if runs and records_of_run not in runs:
            raise unknown("row of the suite", records_of_run, runs, where=where)
        yield _figure_row(LayoutRow(group.title, label, "", values, run=runs.get(records_of_run)), columns)


def _figure_row(row: LayoutRow, columns: tuple[str, ...]) -> LayoutRow:
    """Return the row with only the figures of the columns, and the printed mean if it is over just these."""
    names = ("average", f"average of {len(columns)}", "Mean")
    means = [value for name, value in row.published.items() if name in names]
    shown = {name: value for name, value in row.published.items() if name in columns}
    of_these = len(shown) == sum(name not in names for name in row.published)
    return replace(row, published=shown, printed_average=means[0] if means and of_these else None)


def _printed_average(keys: tuple[str | None, ...], columns: tuple[str, ...]) -> PrintedAverage:
    for row in read_published("averages"):
        same = (row["reported_by"], row["method"], row["variant"], row["postprocess"]) == keys
        if same and set(row["benchmarks"].split()) == set(columns):
            return PrintedAverage(row["printed"], row["explainable_by_input_rounding"] == "yes")
    return PrintedAverage(None, False)


def rule_of(note: str) -> str:
    """Return the metric of a figure whose note has the mark ``[rule NAME]``, "" without one."""
    found = re.search(r"\[rule ([^\]]+)\]", note)
    return parse_metric(found[1], "results.csv").name if found else ""


@cache
def _results() -> tuple[PublishedFigure, ...]:
    return tuple(row._replace(benchmark=PAS_20B) if f"[{PAS_20B}" in row.note else row for row in published_results())


@cache
def _results_by_row() -> dict[tuple[str | None, ...], list[PublishedFigure]]:
    """Return the published figures of every row of a table: who reports it, method, variant and refinement."""
    rows: dict[tuple[str | None, ...], list[PublishedFigure]] = {}
    for figure in _results():
        rows.setdefault((figure.reported_by, figure.method, figure.variant, figure.postprocess), []).append(figure)
    return rows
