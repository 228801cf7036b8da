"""Rows of measured values for tables whose columns are means over several benchmarks, such as the domains of MESS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from ovbench.config.official import published_label_rule
from ovbench.results.layouts import Entry, TableLayout
from ovbench.results.metric_values import bounds_of
from ovbench.results.record_files import RecordFile, newest, why_not_averaged
from ovbench.results.run_names import run_details, run_facts
from ovbench.results.tables import TableCell, TableRow

GROUP = "measured"


class CombinedRows(NamedTuple):
    """The rows, and notes on values that are missing."""

    rows: list[TableRow]
    notes: list[str]


def combined_rows(layout: TableLayout, records: Sequence[RecordFile]) -> CombinedRows:
    """Return one row per method and what distinguishes its runs, for the columns of ``layout.benchmarks``.

    A column is the mean over its sets; a set is a benchmark, or the mean of several. A column lacks a value if one of
    its benchmarks is not measured, or if its records must not be averaged.

    Args:
        layout: The table.
        records: Records to choose from.
    """
    names = {name for entries in layout.benchmarks.values() for entry in entries for name in members(entry)}
    mine = [found for found in records if found.record["cell"]["dataset"] in names]
    rows: dict[tuple[str, str], dict[str, list[RecordFile]]] = {}
    for found, detail in zip(mine, run_details(mine), strict=True):
        cell = found.record["cell"]
        rows.setdefault((cell["method"], detail), {}).setdefault(cell["dataset"], []).append(found)
    made, notes = [], []
    for (method, detail), found_by_name in sorted(rows.items()):
        chosen = {name: best for name, found in found_by_name.items() if (best := newest(found))}
        row = TableRow(GROUP, method, detail, tuple(_cell(layout, column, chosen) for column in layout.columns))
        made.append(row)
        reasons = {column: why for column in layout.columns if (why := _why_missing(layout, column, chosen))}
        notes += [f"{row.name}: no {column}, {why}" for column, why in reasons.items()]
    return CombinedRows(made, notes)


def members(entry: Entry) -> tuple[str, ...]:
    """Return the benchmarks of a set."""
    return (entry,) if isinstance(entry, str) else entry


def entries_of(layout: TableLayout, column: str) -> tuple[Entry, ...]:
    """Return the sets of a column; the overall column has those of all others."""
    if column == layout.overall:
        return tuple(entry for entries in layout.benchmarks.values() for entry in entries)
    return layout.benchmarks.get(column, ())


def _cell(layout: TableLayout, column: str, chosen: Mapping[str, RecordFile]) -> TableCell:
    entries = entries_of(layout, column)
    if not entries or _why_missing(layout, column, chosen):
        return TableCell()
    found = [chosen[name] for entry in entries for name in members(entry)]
    values = [fmean(chosen[name].record["metrics"][layout.metric] for name in members(entry)) for entry in entries]
    whole = TableCell(
        measured=100 * fmean(values), partial=any(one.partial for one in found),
        notes=tuple(dict.fromkeys(note for one in found for note in one.record.get("notes", ()))),
    )  # fmt: skip
    return whole if len(found) > 1 else _with_facts(whole, found[0], layout.metric)


def _with_facts(cell: TableCell, found: RecordFile, metric: str) -> TableCell:
    """Return the cell of one benchmark with the facts of its record."""
    data, bounds = found.record["dataset"], bounds_of(found.record, metric)
    differs = published_label_rule(found.record["cell"]["dataset"]) != "correct"
    return replace(
        cell, interval=None if bounds is None else (100 * bounds[0], 100 * bounds[1]), images=data["images"],
        split_images=data["split_images"], record=str(found.path), rule=data["label_rule"] if differs else None,
    )  # fmt: skip


def _why_missing(layout: TableLayout, column: str, chosen: Mapping[str, RecordFile]) -> str:
    """Return why a column with some measured benchmarks has no value; "" if it has one, or if none is measured."""
    names = [name for entry in entries_of(layout, column) for name in members(entry)]
    found = [chosen[name] for name in names if name in chosen]
    scored = [one for one in found if one.record["metrics"].get(layout.metric) is not None]
    if not found:
        return "no benchmark of it is measured" if names else ""
    if len(scored) < len(names):
        return f"{len(scored)} of its {len(names)} benchmarks are measured"
    facts = dict.fromkeys(", ".join(run_facts(one.record)) or "none" for one in scored)
    return why_not_averaged(scored) or (f"different runs ({'; '.join(facts)})" if len(facts) > 1 else "")
