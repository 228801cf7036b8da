"""Tables of papers, as data in configs/tables/.

    title = "..."; source = "..."; note = "..."
    columns = ["voc21", "pc60"]          benchmarks, in the paper's order; the average is over all of them
    [[group]]                            a block of the table
    title = "ViT-B/16"
    reported_by = "..."                  rows of that table in results/published/results.csv, in its order, narrowed by
    methods = [...]                      methods, variants, postprocess and groups; or, one by one:
    [[group.row]]
    label = "..."                        with reported_by, method, variant, postprocess; or, for an ablation, with
    setting = "..."                      group keys ablation = [method, table], and suite = "..." whose rows have the
                                         labels of this table's

Which run of ovbench a published row describes stands in configs/published_runs.toml.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.errors import InputError, unknown
from ovbench.resources import shipped
from ovbench.results.published import Published, published_results
from ovbench.suites import load_suite
from ovbench.tomlfile import read_toml, refuse_unknown_keys

KEYS = ("title", "source", "note", "columns", "group")
FILTERS = {"methods": "method", "variants": "variant", "postprocess": "postprocess", "groups": "group"}
GROUP_KEYS = ("title", "reported_by", "suite", "ablation", "row", *FILTERS)
ROW_KEYS = ("label", "reported_by", "method", "variant", "postprocess", "setting")
NOT_COMPARABLE = ("[PAS-20b", "[protocol?]")


@dataclass(frozen=True)
class Run:
    """A method with settings and weights as after ``--set`` and ``--weights``."""

    method: str
    settings: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)


class PrintedAverage(NamedTuple):
    value: str | None
    fits: bool


@dataclass(frozen=True)
class LayoutRow:
    """``published``: percentages as printed, by benchmark; ``printed_average``: as the paper gives it, if it does, and
    ``average_fits``: whether the values, rounded as they are, may have that average;
    ``run``: what measures the row here, if anything does; ``mixed``: the published values are of unlike protocols."""

    group: str
    label: str
    detail: str
    published: Mapping[str, str]
    printed_average: str | None = None
    average_fits: bool = False
    run: Run | None = None
    mixed: bool = False


@dataclass(frozen=True)
class Layout:
    title: str
    source: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[LayoutRow, ...]


def layout_names() -> list[str]:
    return sorted(path.stem for path in shipped("configs", "tables").glob("*.toml"))


def load_layout(name: str) -> Layout:
    """A shipped layout, or a TOML file. UsageError for an unknown name, InputError for a malformed file."""
    path = Path(name) if name.endswith(".toml") else shipped("configs", "tables", f"{name}.toml")
    if not path.is_file() and not name.endswith(".toml"):
        raise unknown("layout", name, layout_names())
    table = read_toml(path)
    refuse_unknown_keys(table, KEYS, path.name)
    if not table.get("columns") or not table.get("group"):
        raise InputError("a layout needs columns and [[group]] tables", where=path.name)
    columns = tuple(table["columns"])
    rows = [row for group in table["group"] for row in _group_rows(group, columns, path.name)]
    return Layout(table.get("title", name), table.get("source", ""), table.get("note", ""), columns, tuple(rows))


def _group_rows(group: Mapping[str, Any], columns: tuple[str, ...], where: str) -> Iterator[LayoutRow]:
    refuse_unknown_keys(dict(group), GROUP_KEYS, where)
    for row in group.get("row", ()):
        refuse_unknown_keys(row, ROW_KEYS, where)
    if "ablation" in group:
        yield from _ablation_rows(group, where)
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
        published_runs().get((method, variant, postprocess)), any(_mark(r) for r in rows if r.benchmark in columns),
    )  # fmt: skip


def _mark(row: Published) -> bool:
    return any(mark in row.note for mark in NOT_COMPARABLE)


def _ablation_rows(group: Mapping[str, Any], where: str) -> Iterator[LayoutRow]:
    method, table = group["ablation"]
    runs: dict[str, Run] = {}
    if "suite" in group:
        runs = {r.label: Run(r.method, r.overrides, r.weights) for r in load_suite(group["suite"])}
    for row in group["row"]:
        values: dict[str, str] = {}
        if "setting" in row:
            wanted = (method, table, row["setting"])
            values = {
                r["benchmark"].removesuffix(" (assumed)"): r["value"]
                for r in _read("ablations.csv")
                if (r["method"], r["table"], r["setting"]) == wanted and r["metric"] == "mIoU"
            }
            if not values:
                raise InputError(f"no published ablation {wanted}", where=where)
        if runs and row["label"] not in runs:
            raise unknown("row of the suite", row["label"], runs, where=where)
        yield LayoutRow(group["title"], row["label"], "", values, run=runs.get(row["label"]))


@cache
def published_runs() -> dict[tuple[str, str, str], Run]:
    """By published method, variant and post-processing, the run that measures the same here."""
    table = read_toml(shipped("configs", "published_runs.toml"))
    return {
        tuple(entry["row"]): Run(entry["method"], entry.get("settings", {}), entry.get("weights", {}))
        for entry in table["run"]
    }


def _printed_average(keys: tuple[str, ...], columns: tuple[str, ...]) -> PrintedAverage:
    for row in _read("averages.csv"):
        same = (row["reported_by"], row["method"], row["variant"], row["postprocess"]) == keys
        if same and set(row["benchmarks"].split()) == set(columns):
            return PrintedAverage(row["printed"], row["explainable_by_input_rounding"] == "yes")
    return PrintedAverage(None, False)


@cache
def _results() -> tuple[Published, ...]:
    return tuple(published_results())


@cache
def _read(name: str) -> list[dict[str, str]]:
    with shipped("results", "published", name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
