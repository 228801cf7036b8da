"""Comparison tables: what papers print beside what was measured here, from records only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from ovbench.data.card import list_cards
from ovbench.results.found import Found, deviation, measured_by, newest, unlike
from ovbench.results.layouts import Layout, LayoutRow


@dataclass(frozen=True)
class TableCell:
    """A score in percent: ``published`` as printed; ``measured`` with its 95 % ``interval``; ranks from 1 within the
    block and column, None beyond the second; ``images`` of ``split_images`` were scored."""

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
    """``rows`` have a cell per column, and one for their mean unless the table shows no ``average``; ``notes`` say what
    does not show in a number; ``metric`` is the field of a record's metrics that is measured."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    average: bool = True
    metric: str = "mIoU"


def layout_table(layout: Layout, records: Sequence[Found], protocol: str = "paper",
                 settings: Mapping[str, str] | None = None) -> ComparisonTable:  # fmt: skip
    """A paper's table with the records that measure its rows; ``settings`` are laid over every row's."""
    by_method: dict[str, list[Found]] = {}
    for found in records:
        by_method.setdefault(found.record["cell"]["method"], []).append(found)
    notes = [layout.note] if layout.note else []
    notes += _not_measured(layout)
    used: set[Path] = set()
    rows = []
    for row in layout.rows:
        candidates = by_method.get(row.run.method, ()) if row.run else ()
        measured = measured_by(row.run, candidates, layout.columns, protocol, settings or {}) if candidates else {}
        used |= {found.path for found in measured.values()}
        made, said = _row(row, measured, layout.columns, layout.metric)
        rows.append(made if layout.average else replace(made, average=TableCell()))
        notes += said if layout.average else []
    left = sum(f.path not in used and f.record["cell"]["dataset"] in layout.columns for f in records)
    if left:
        notes.append(f"{left} record(s) on these benchmarks are of other settings than any row's, or older")
    ranked = _ranked(rows, [name in layout.lower_is_better for name in layout.columns])
    return ComparisonTable(
        layout.title, layout.source, layout.columns, ranked, tuple(notes), layout.average, layout.metric
    )


def _not_measured(layout: Layout) -> list[str]:
    """What of a layout ovbench has no measurement for, whatever the records."""
    foreign = [name for name in layout.columns if not name.endswith(".toml") and name not in list_cards()]
    if foreign and len(foreign) == len(layout.columns):
        return ["published figures alone: ovbench measures none of these columns"]
    return [f"published figures alone: ovbench does not measure {', '.join(foreign)}"] if foreign else []


def _row(
    row: LayoutRow, measured: Mapping[str, Found], columns: Sequence[str], metric: str = "mIoU"
) -> tuple[TableRow, list[str]]:
    cells = tuple(_cell(row.published.get(column), measured.get(column), metric) for column in columns)
    notes = []
    name = f"{row.label} ({row.detail})" if row.detail else row.label
    published = None if row.published else row.printed_average  # some tables give nothing else
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


def _cell(published: str | None, found: Found | None, metric: str) -> TableCell:
    if found is None or found.record["metrics"][metric] is None:
        return TableCell(published)
    metrics, data = found.record["metrics"], found.record["dataset"]
    bounds = metrics.get(f"{metric}_interval")
    return TableCell(
        published, 100 * metrics[metric], None if bounds is None else (100 * bounds[0], 100 * bounds[1]), found.partial,
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
    return ComparisonTable("measured mIoU in percent", "", columns, _ranked(made, [False] * len(columns)), tuple(notes))


def _ranked(rows: Sequence[TableRow], lower: Sequence[bool]) -> tuple[TableRow, ...]:
    """First and second of every column of a block, published and measured apart; parts of a benchmark stay out.
    ``lower``: the columns in which the least is best."""
    ranked = [[*row.cells, row.average] for row in rows]
    for group in dict.fromkeys(row.group for row in rows):
        members = [number for number, row in enumerate(rows) if row.group == group]
        for column, least in enumerate((*lower, False)):
            for name in ("published", "measured"):
                scores = {
                    n: float(value)
                    for n in members
                    if (value := getattr(ranked[n][column], name)) is not None
                    and not (name == "measured" and ranked[n][column].partial)
                }
                best = sorted(set(scores.values()), reverse=not least)[:2]
                for n, score in scores.items() if len(scores) > 1 else ():
                    if score in best:
                        rank = {f"rank_{name}": best.index(score) + 1}
                        ranked[n][column] = replace(ranked[n][column], **rank)
    return tuple(
        replace(row, cells=tuple(cells[:-1]), average=cells[-1]) for row, cells in zip(rows, ranked, strict=True)
    )
