"""Rows of measured costs in tables of published costs, each with its device and precision."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ovbench.results.layouts import TableLayout
from ovbench.results.record_files import RecordFile, deviations_of, why_not_averaged
from ovbench.results.tables import TableCell, TableRow

GROUP = "measured by ovbench"
FIVE = ("ade150", "cityscapes", "coco-stuff", "pc59", "voc20")
AVERAGE = "average mIoU of 5 (plot) (mIoU)"  # a column of records on the five benchmarks
Cost = Mapping[str, Any]


def _total(cost: Cost) -> float:
    return cost["latency_s"] + (cost["regions_s"] or 0.0)


def _scaled(name: str, factor: float) -> Callable[[Cost], float | None]:
    return lambda cost: None if cost[name] is None else factor * cost[name]


COLUMNS: dict[str, Callable[[Cost], float | None]] = {
    "throughput (FPS)": _scaled("images_per_s", 1),
    "latency (ms)": _scaled("latency_s", 1000),
    "latency (plot) (s)": _total,
    "time per image (ms)": lambda cost: 1000 * _total(cost),
    "time per image (s)": _total,
    "mask generation time per image (ms)": _scaled("regions_s", 1000),
    "parameters (M)": _scaled("parameters", 1e-6),
    "parameters (plot) (M)": _scaled("parameters", 1e-6),
    "compute (GFLOPs)": _scaled("flops", 1e-9),
    "peak GPU memory (GB)": _scaled("peak_device_bytes", 1e-9),
}


def is_cost_column(column: str) -> bool:
    """Return whether a record with a cost has a value for a column."""
    return column in COLUMNS or column == AVERAGE


def place_of(cost: Cost) -> str:
    """Return device and precision of a measured cost in a few words."""
    device = cost["device"]
    compiled = ", compiled" if device.get("compile") else ""
    return f"{device.get('name', device.get('type', ''))}, {device.get('precision', '')}{compiled}"


def cost_rows(layout: TableLayout, records: Sequence[RecordFile]) -> list[TableRow]:
    """Return a row for every record with a cost; with a column over five benchmarks, for the records on these.

    Args:
        layout: The table.
        records: Records to choose from.
    """
    found = [one for one in records if one.record.get("cost")]
    if AVERAGE not in layout.columns:
        return [_row(layout, [one]) for one in found] if any(map(is_cost_column, layout.columns)) else []
    groups: dict[tuple[str, ...], dict[str, RecordFile]] = {}
    for one in found:
        key = (one.record["cell"]["method"], deviations_of(one.record), place_of(one.record["cost"]))
        groups.setdefault(key, {})[one.record["cell"]["dataset"]] = one
    chosen = [[group[name] for name in FIVE] for group in groups.values() if group.keys() >= set(FIVE)]
    return [_row(layout, group) for group in chosen if not why_not_averaged(group)]


def _row(layout: TableLayout, group: Sequence[RecordFile]) -> TableRow:
    first = group[0].record
    names = "five benchmarks" if len(group) > 1 else first["cell"]["dataset"]
    detail = ", ".join(filter(None, [names, deviations_of(first), place_of(first["cost"])]))
    cells = tuple(_cell(column, group) for column in layout.columns)
    return TableRow(GROUP, first["cell"]["method"], detail, cells)


def _cell(column: str, group: Sequence[RecordFile]) -> TableCell:
    if column == AVERAGE:
        values = [100 * one.record["metrics"]["mIoU"] for one in group]
    elif column in COLUMNS:
        values = [value for one in group if (value := COLUMNS[column](one.record["cost"])) is not None]
    else:
        values = []
    if len(values) < len(group):
        return TableCell()
    partial = any(one.partial for one in group) and column == AVERAGE
    digits = 3 if column.endswith("(s)") else 1
    return TableCell(
        measured=statistics.mean(values), partial=partial, images=group[0].record["cost"]["images"],
        record=str(group[0].path), digits=digits,
    )  # fmt: skip
