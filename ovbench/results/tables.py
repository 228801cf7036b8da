"""Comparison tables: what papers print beside what was measured here, from records only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.backbones.spec import parse_spec
from ovbench.config import Cell, resolve
from ovbench.errors import InputError, OvbenchError
from ovbench.results.compare import unlike_settings
from ovbench.results.layouts import Layout, LayoutRow, Run
from ovbench.results.record import read_record

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


@dataclass(frozen=True)
class TableCell:
    """mIoU in percent: ``published`` as printed; ``measured`` with its 95 % ``interval``; ranks from 1 within the block
    and column, None beyond the second; ``images`` of ``split_images`` were scored."""

    published: str | None = None
    measured: float | None = None
    interval: tuple[float, float] | None = None
    partial: bool = False
    images: int | None = None
    split_images: int | None = None
    record: str | None = None
    rank_published: int | None = None
    rank_measured: int | None = None

    @property
    def difference(self) -> float | None:
        """Measured minus published; not told of part of a benchmark."""
        if self.published is None or self.measured is None or self.partial:
            return None
        return self.measured - float(self.published)


@dataclass(frozen=True)
class TableRow:
    group: str
    label: str
    detail: str
    cells: tuple[TableCell, ...]
    average: TableCell = field(default_factory=TableCell)


@dataclass(frozen=True)
class ComparisonTable:
    """``rows`` have a cell per column; ``notes`` say what does not show in a number."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]


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


def layout_table(layout: Layout, records: Sequence[Found], protocol: str = "paper",
                 settings: Mapping[str, str] | None = None) -> ComparisonTable:  # fmt: skip
    """A paper's table with the records that measure its rows; ``settings`` are laid over every row's."""
    by_method: dict[str, list[Found]] = {}
    for found in records:
        by_method.setdefault(found.record["cell"]["method"], []).append(found)
    notes = [layout.note] if layout.note else []
    used: set[Path] = set()
    rows = []
    for row in layout.rows:
        candidates = by_method.get(row.run.method, ()) if row.run else ()
        measured = _measured(row.run, candidates, layout.columns, protocol, settings or {}) if candidates else {}
        used |= {found.path for found in measured.values()}
        made, said = _row(row, measured, layout.columns)
        rows.append(made)
        notes += said
    left = sum(f.path not in used and f.record["cell"]["dataset"] in layout.columns for f in records)
    if left:
        notes.append(f"{left} record(s) on these benchmarks are of other settings than any row's, or older")
    return ComparisonTable(layout.title, layout.source, layout.columns, _ranked(rows), tuple(notes))


def _measured(
    run: Run, candidates: Sequence[Found], columns: Sequence[str], protocol: str, settings: Mapping[str, str]
) -> dict[str, Found]:
    """By benchmark the record of exactly this run."""
    chosen = {}
    for column in columns:
        here = [f for f in candidates if f.record["cell"]["dataset"] == column]
        if here:
            wanted = _comparable(resolve(run.method, column, {**run.settings, **settings}, run.weights, protocol))
            best = newest(f for f in here if _comparable(f.record["cell"]) == wanted)
            if best:
                chosen[column] = best
    return chosen


def _comparable(cell: Cell | Mapping[str, Any]) -> dict[str, Any]:
    """A cell with short names of backbones spelled out."""
    plain = dict(cell.as_dict() if isinstance(cell, Cell) else cell)
    plain["backbones"] = {
        kind: spec if kind in ("psi", "reference") else list(map(str, parse_spec(kind, spec)))
        for kind, spec in plain["backbones"].items()
    }
    return plain


def _row(
    row: LayoutRow, measured: Mapping[str, Found], columns: Sequence[str]
) -> tuple[TableRow, list[str]]:
    cells = tuple(_cell(row.published.get(column), measured.get(column)) for column in columns)
    notes = []
    name = f"{row.label} ({row.detail})" if row.detail else row.label
    published = None
    if row.mixed:
        notes.append(f"{name}: no published average, its values are of unlike protocols")
    elif all(cell.published is not None for cell in cells):
        published = _mean_as_printed([cell.published for cell in cells], row.printed_average)
        if row.average_fits:
            published = row.printed_average
        elif row.printed_average not in (None, published):
            notes.append(f"{name}: the average of the row is {published}; {row.printed_average} is printed")
    average, reason = _average(cells, list(measured.values()), len(columns))
    if reason:
        notes.append(f"{name}: no measured average, {reason}")
    return TableRow(row.group, row.label, row.detail, cells, replace(average, published=published)), notes


def _cell(published: str | None, found: Found | None) -> TableCell:
    if found is None or found.record["metrics"]["mIoU"] is None:
        return TableCell(published)
    metrics, data = found.record["metrics"], found.record["dataset"]
    bounds = metrics.get("mIoU_interval")
    return TableCell(
        published, 100 * metrics["mIoU"], None if bounds is None else (100 * bounds[0], 100 * bounds[1]), found.partial,
        data["images"], data["split_images"], str(found.path),
    )  # fmt: skip


def _mean_as_printed(values: Sequence[str | None], printed: str | None) -> str:
    """The mean with as many digits as the paper's own average, or as the values; halves are rounded up, exactly."""
    numbers = [Decimal(value) for value in values if value is not None]
    digits = [-Decimal(text).as_tuple().exponent for text in ([printed] if printed else map(str, numbers))]
    return str((sum(numbers) / len(numbers)).quantize(Decimal(1).scaleb(-max(digits)), ROUND_HALF_UP))


def _average(cells: Sequence[TableCell], found: Sequence[Found], wanted: int) -> tuple[TableCell, str]:
    """The mean over all columns, or why there is none ("" where simply not everything was measured)."""
    values = [cell.measured for cell in cells if cell.measured is not None]
    if not values or len(values) < wanted:
        return TableCell(), ""
    reason = unlike(found)
    if reason:
        return TableCell(), reason
    return TableCell(measured=sum(values) / len(values), partial=any(cell.partial for cell in cells)), ""


def unlike(found: Sequence[Found]) -> str:
    """Why the values of these records must not be averaged; "" where they may."""
    for key in MUST_AGREE:
        values = {}
        for one in found:
            part: Any = one.record
            for step in key.split("."):
                part = part.get(step) if isinstance(part, dict) else None
            values.setdefault(str(part), one.record["cell"]["dataset"])
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
        try:
            wanted = resolve(cell["method"], cell["dataset"], protocol=protocol)
        except OvbenchError:
            continue  # a method that is no longer there, or that cannot be resolved without further settings
        changed = unlike_settings(_comparable(wanted), _comparable(cell))
        told = [f"{key.split('.', 1)[-1]}={value}" for key, _, value in changed]
        texts.append(["protocol common"] * (protocol == "common") + told)
    return ", ".join(min(texts, key=len)) if texts else "settings of its own"


def record_table(records: Sequence[Found]) -> ComparisonTable:
    """All records, one row per method and deviation from its settings, a column per benchmark; no published values."""
    rows: dict[tuple[str, str], dict[str, list[Found]]] = {}
    for found in records:
        cell = found.record["cell"]
        rows.setdefault((cell["method"], deviation(cell)), {}).setdefault(cell["dataset"], []).append(found)
    columns = tuple(sorted({f.record["cell"]["dataset"] for f in records}))
    made, notes = [], []
    for (method, changed), cells in sorted(rows.items()):
        chosen = {dataset: best for dataset, found in cells.items() if (best := newest(found))}
        row, said = _row(LayoutRow("", method, changed, {}), chosen, columns)
        made.append(row)
        notes += said
    return ComparisonTable("measured mIoU in percent", "", columns, _ranked(made), tuple(notes))


def _ranked(rows: Sequence[TableRow]) -> tuple[TableRow, ...]:
    """First and second of every column of a block, published and measured apart; parts of a benchmark stay out."""
    ranked = [[*row.cells, row.average] for row in rows]
    for group in dict.fromkeys(row.group for row in rows):
        members = [number for number, row in enumerate(rows) if row.group == group]
        for column in range(len(ranked[0])):
            for name in ("published", "measured"):
                scores = {
                    n: float(value)
                    for n in members
                    if (value := getattr(ranked[n][column], name)) is not None
                    and not (name == "measured" and ranked[n][column].partial)
                }
                best = sorted(set(scores.values()), reverse=True)[:2]
                for n, score in scores.items() if len(scores) > 1 else ():
                    if score in best:
                        rank = {f"rank_{name}": best.index(score) + 1}
                        ranked[n][column] = replace(ranked[n][column], **rank)
    return tuple(
        replace(row, cells=tuple(cells[:-1]), average=cells[-1]) for row, cells in zip(rows, ranked, strict=True)
    )
