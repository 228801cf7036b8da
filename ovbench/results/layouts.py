"""Tables of papers, as data in configs/tables/.

    title = "..."; source = "..."; note = "..."
    columns = ["voc21", "pc60"]          benchmarks, in the paper's order, or whatever else its columns are
    metric = "pAcc"                      what the figures are, if not mIoU
    average = false                      no column for the mean over all columns
    lower_is_better = ["latency (s)"]    columns whose least value is best
    [[group]]                            a block of the table
    title = "ViT-B/16"
    reported_by = "..."                  rows of that table in results/published/results.csv, in its order, narrowed by
    methods = [...]                      methods, variants, postprocess and groups; or, one by one:
    [[group.row]]
    label = "..."                        with reported_by, method, variant, postprocess

Rows of the other files, such as ablations:

    [[group]]
    figures = "ablations"                the file; where = { field = "value" } narrows it; reported_by = the table of
                                         results.csv whose protocol the figures share, if their rows have runs
    suite = "..."                        whose rows measure the rows of the block; without figures, nothing is published
    [[group.row]]                        without any, all rows of the file, or of the suite
    label = "..."                        that of the suite's row, unless suite_row = "..." names another
    setting = "..."                      the row's name in the file, if it is there

Which run of ovbench a row of results.csv describes stands in configs/published_runs.toml.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config.published_runs import PublishedRun, RowKey, published_runs
from ovbench.config.suites import load_suite
from ovbench.results.published import PAS_20B, PublishedFigure, figures, published_results, read_published
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml, refuse_unknown_keys

KEYS = ("title", "source", "note", "columns", "metric", "average", "lower_is_better", "group")
FILTERS = {"methods": "method", "variants": "variant", "postprocess": "postprocess", "groups": "group"}
GROUP_KEYS = ("title", "reported_by", "figures", "where", "suite", "row", *FILTERS)
ROW_KEYS = ("label", "reported_by", "method", "variant", "postprocess", "setting", "suite_row")
METRICS = {"mIoU": "mIoU", "mAcc": "mAcc", "pAcc": "aAcc"}  # the name in papers: that in a record
NOT_COMPARABLE = "[protocol?]"


class PrintedAverage(NamedTuple):
    value: str | None
    fits: bool


@dataclass(frozen=True)
class LayoutRow:
    """``published``: figures as printed, by column; ``printed_average``: as the paper gives it, if it does, and
    ``average_fits``: whether the values, rounded as they are, may have that average;
    ``run``: what measures the row here, if anything does; ``other``: the run of its method where the table measured it
    in a protocol of its own; ``mixed``: the published values are of unlike protocols."""

    group: str
    label: str
    detail: str
    published: Mapping[str, str]
    printed_average: str | None = None
    average_fits: bool = False
    run: PublishedRun | None = None
    mixed: bool = False
    other: PublishedRun | None = None


@dataclass(frozen=True)
class TableLayout:
    """``metric``: the field of a record's metrics that is measured; ``average``: whether there is one over all columns;
    ``lower_is_better``: columns in which the least value is best."""

    title: str
    source: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[LayoutRow, ...]
    metric: str = "mIoU"
    average: bool = True
    lower_is_better: tuple[str, ...] = ()


def layout_names() -> list[str]:
    return sorted(path.stem for path in shipped("configs", "tables").glob("*.toml"))


def load_layout(name: str, datasets: Sequence[str] = ()) -> TableLayout:
    """A shipped layout, or a TOML file; ``datasets`` are shown instead of its own columns. UsageError for an unknown
    name, InputError for a malformed file."""
    path = Path(name) if name.endswith(".toml") else shipped("configs", "tables", f"{name}.toml")
    if not path.is_file() and not name.endswith(".toml"):
        raise unknown("layout", name, layout_names())
    table = read_toml(path)
    refuse_unknown_keys(table, KEYS, path.name)
    if not table.get("columns") or not table.get("group"):
        raise InputError("a layout needs columns and [[group]] tables", where=path.name)
    metric = table.get("metric", "mIoU")
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS, where=path.name)
    columns = tuple(datasets) or tuple(table["columns"])
    rows = [row for group in table["group"] for row in _group_rows(group, columns, path.name)]
    return TableLayout(
        table.get("title", name), table.get("source", ""), table.get("note", ""), columns, tuple(rows), METRICS[metric],
        table.get("average", True), tuple(table.get("lower_is_better", ())),
    )  # fmt: skip


def _group_rows(group: Mapping[str, Any], columns: tuple[str, ...], where: str) -> Iterator[LayoutRow]:
    refuse_unknown_keys(dict(group), GROUP_KEYS, where)
    for row in group.get("row", ()):
        refuse_unknown_keys(row, ROW_KEYS, where)
    if "figures" in group or "suite" in group:
        yield from _figure_rows(group, columns, where)
    elif "row" in group:
        for row in group["row"]:
            keys = tuple(row.get(key, group.get(key)) for key in ("reported_by", "method", "variant", "postprocess"))
            made = _published_row(group["title"], keys, columns, where, row.get("label"))
            yield made if "reported_by" in group else replace(made, detail=f"{made.detail}; {keys[0]}")
    else:
        wanted = {field: group[key] for key, field in FILTERS.items() if key in group}
        found = [
            (r.reported_by, r.method, r.variant, r.postprocess)
            for r in _results()
            if r.reported_by == group.get("reported_by") and all(getattr(r, f) in v for f, v in wanted.items())
        ]
        if not found:
            raise InputError(f'no published row for the group "{group.get("title")}"', where=where)
        for keys in dict.fromkeys(found):
            yield _published_row(group["title"], keys, columns, where)


def _published_row(
    title: str, keys: tuple[str, ...], columns: tuple[str, ...], where: str, label: str | None = None
) -> LayoutRow:
    rows = [r for r in _results() if (r.reported_by, r.method, r.variant, r.postprocess) == keys]
    if not rows:
        raise InputError(f"no published row {keys}", where=where)
    method, variant, postprocess = keys[1:]
    values = {r.benchmark: r.value for r in rows if r.benchmark in columns}
    refined = "" if postprocess == "none" else f", {postprocess}"
    return LayoutRow(
        title, label or method, f"{variant}{refined}", values, *_printed_average(keys, columns),
        **_runs_of(keys[1:], keys[0]), mixed=any(NOT_COMPARABLE in r.note for r in rows if r.benchmark in columns),
    )  # fmt: skip


def _runs_of(key: RowKey, reported_by: str) -> dict[str, PublishedRun | None]:
    """The run that measures a row of a table, or the one that measures its method in another protocol."""
    run = published_runs().get(key)
    return {"run" if run is None or reported_by in run.sources else "other": run}


def _figure_rows(group: Mapping[str, Any], columns: tuple[str, ...], where: str) -> Iterator[LayoutRow]:
    """Rows of another file; the suite's rows measure them, or else the runs of the same names."""
    found = figures(group["figures"], group.get("where", {}), where) if "figures" in group else {}
    runs = {}
    if "suite" in group:  # on no benchmark in particular: on some it leaves rows out
        runs = {r.label: PublishedRun(r.method, r.overrides, r.weights) for r in load_suite(group["suite"], [""])}
    if "row" not in group:
        for (label, detail), values in (found or {(name, ""): {} for name in runs}).items():
            key = (label, detail, "none")
            which = {"run": runs.get(label)} if runs else _runs_of(key, group.get("reported_by", ""))
            yield _figure_row(LayoutRow(group["title"], label, detail, values, **which), columns)
    for row in group.get("row", ()):
        values, records_of_run = {}, row.get("suite_row", row["label"])
        if "setting" in row:
            values = next((cells for (label, _), cells in found.items() if label == row["setting"]), {})
            if not values:
                raise unknown("published figure", row["setting"], {label for label, _ in found}, where=where)
        if runs and records_of_run not in runs:
            raise unknown("row of the suite", records_of_run, runs, where=where)
        made = LayoutRow(group["title"], row["label"], "", values, run=runs.get(records_of_run))
        yield _figure_row(made, columns)


def _figure_row(row: LayoutRow, columns: tuple[str, ...]) -> LayoutRow:
    """The row with the figures of the columns, and their printed mean if it is over these alone."""
    names = ("average", f"average of {len(columns)}", "Mean")
    means = [value for name, value in row.published.items() if name in names]
    shown = {name: value for name, value in row.published.items() if name in columns}
    of_these = len(shown) == sum(name not in names for name in row.published)
    return replace(row, published=shown, printed_average=means[0] if means and of_these else None)


def _printed_average(keys: tuple[str, ...], columns: tuple[str, ...]) -> PrintedAverage:
    for row in read_published("averages"):
        same = (row["reported_by"], row["method"], row["variant"], row["postprocess"]) == keys
        if same and set(row["benchmarks"].split()) == set(columns):
            return PrintedAverage(row["printed"], row["explainable_by_input_rounding"] == "yes")
    return PrintedAverage(None, False)


@cache
def _results() -> tuple[PublishedFigure, ...]:
    return tuple(row._replace(benchmark=PAS_20B) if f"[{PAS_20B}" in row.note else row for row in published_results())
