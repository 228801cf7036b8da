"""Comparison tables: published values beside those of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from ovbench.config.nearest_published import published_cell
from ovbench.config.official import no_official_setting, published_label_rule
from ovbench.config.published_runs import PublishedRun
from ovbench.config.setting_changes import changes_from_published
from ovbench.data.shipped_cards import known_cards
from ovbench.evaluation.record import value_at
from ovbench.metrics.named import METRICS, Metric, parse_metric
from ovbench.results.layouts import LayoutRow, TableLayout
from ovbench.results.metric_values import bounds_of
from ovbench.results.record_files import (
    RecordFile,
    newest,
    official_cell,
    records_of_run,
    rule_as_published,
    unverified_weights,
    why_not_averaged,
)
from ovbench.results.run_names import run_details, run_facts


@dataclass(frozen=True)
class TableCell:
    """A published score, as printed, and a measured one with its 95 % interval, both in percent.

    ``images`` of ``split_images`` were scored. Ranks are 1 or 2 within a block and column, otherwise None. ``rule`` is
    the label rule of the measured value, on benchmarks where it matters. ``compared`` is true if both values have the
    same protocol. ``notes`` are the warnings of the record. ``digits`` is the number of decimals of ``measured``.
    """

    published: str | None = None
    measured: float | None = None
    interval: tuple[float, float] | None = None
    partial: bool = False
    images: int | None = None
    split_images: int | None = None
    record: str | None = None
    rank_published: int | None = None
    rank_measured: int | None = None
    rule: str | None = None
    compared: bool = True
    notes: tuple[str, ...] = ()
    digits: int = 1

    @property
    def difference(self) -> float | None:
        """Return measured minus published, None for part of a benchmark or different protocols."""
        if self.published is None or self.measured is None or self.partial or not self.compared:
            return None
        return self.measured - float(self.published)


@dataclass(frozen=True)
class TableRow:
    """A row with one cell per column and the average over them."""

    group: str
    label: str
    detail: str
    cells: tuple[TableCell, ...]
    average: TableCell = field(default_factory=TableCell)

    @property
    def name(self) -> str:
        """Return label and detail in one line."""
        return f"{self.label} ({self.detail})" if self.detail else self.label


@dataclass(frozen=True)
class ComparisonTable:
    """The rows of a table and notes on them.

    With ``average`` the table shows the average of a row. ``metric`` is the field of a record's metrics.
    """

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    average: bool = True
    metric: str = "mIoU"


def layout_table(
    layout: TableLayout, records: Sequence[RecordFile], protocol: str = "paper",
    settings: Mapping[str, str] | None = None, more: Sequence[TableRow] = (), measurable: Sequence[str] = (),
) -> ComparisonTable:  # fmt: skip
    """Build the table of a paper with the records that measure its rows.

    Args:
        layout: The table of the paper.
        records: Records to choose from.
        protocol: Protocol of the records.
        settings: Settings that replace those of every row.
        more: Rows of other measurements, which stand at the end.
        measurable: Columns that are no benchmarks, but of which ``more`` may have measurements.
    """
    by_method: dict[str, list[RecordFile]] = {}
    for found in records:
        by_method.setdefault(found.record["cell"]["method"], []).append(found)
    notes = [layout.note] if layout.note else []
    notes += _not_measured(layout, measurable)
    used: set[Path] = set()
    rows = []
    for row in layout.rows:
        measured = _measured(row.run, by_method, layout, protocol, settings or {})
        asked = _changed_settings(row.run, measured, protocol)
        shown = replace(row, detail=_joined(row.detail, asked))
        made, said = _row(shown, measured, layout.columns, layout.metric, asked)
        rows.append(made if layout.average else replace(made, average=TableCell()))
        notes += [*(said if layout.average else ()), *_of_maps(made, measured), *_of_unverified(made, measured)]
        used |= {found.path for found in measured.values()}
        own = _measured(row.other, by_method, layout, protocol, settings or {})
        used |= {found.path for found in own.values()}
        rows += [_own_protocol(row, own, layout, protocol)] if own else []
    notes += _of_protocols(layout)
    notes += _of_rules(layout)
    left = sum(f.path not in used and f.record["cell"]["dataset"] in layout.columns for f in records)
    if left:
        notes.append(f"{left} record(s) on these benchmarks have other settings than every row, or are older")
    notes += _of_records(rows, layout.columns)
    rows += more
    lower = parse_metric(layout.metric).lower_is_better
    ranked = _ranked(rows, [lower or name in layout.lower_is_better for name in layout.columns], lower)
    return ComparisonTable(
        layout.title, layout.source, layout.columns, ranked, tuple(notes), layout.average, layout.metric
    )


def _measured(
    run: PublishedRun | None, by_method: Mapping[str, Sequence[RecordFile]], layout: TableLayout, protocol: str,
    settings: Mapping[str, str],
) -> dict[str, RecordFile]:  # fmt: skip
    if run is None:
        return {}
    candidates = by_method.get(run.method, ())
    return records_of_run(run, candidates, layout.columns, protocol, settings) if candidates else {}


def _changed_settings(run: PublishedRun | None, measured: Mapping[str, RecordFile], protocol: str) -> str:
    """Return how the settings of records differ from those of a row, except for the reference set, as text."""
    changed: dict[str, None] = {}
    if run is None:
        return ""
    for dataset, found in measured.items():
        for change in changes_from_published(published_cell(run, dataset), official_cell(found.record)):
            changed |= {str(change): None} if change.setting != "reference" else {}
    if not changed:
        return ""
    return "measured with " + ("protocol common" if protocol == "common" else ", ".join(changed))


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _own_protocol(row: LayoutRow, measured: Mapping[str, RecordFile], layout: TableLayout, protocol: str) -> TableRow:
    """Build a row of measured values only, for a method that the table has with another protocol."""
    source = row.other.sources[0] if row.other and row.other.sources else "its official code"
    asked = _changed_settings(row.other, measured, protocol)
    bare = LayoutRow(row.group, row.label, _joined(row.detail, asked or f"measured with the protocol of {source}"), {})
    made = _row(bare, measured, layout.columns, layout.metric)[0]
    return made if layout.average else replace(made, average=TableCell())


def _of_maps(row: TableRow, measured: Mapping[str, RecordFile]) -> list[str]:
    names = [name for name, found in measured.items() if found.record["cell"]["regions"].get("source") == "precomputed"]
    return [f"{row.name}: precomputed region maps on {', '.join(names)}, assumed to be the authors'"] if names else []


def _of_unverified(row: TableRow, measured: Mapping[str, RecordFile]) -> list[str]:
    found = dict.fromkeys(text for one in measured.values() for text in unverified_weights(one.record))
    return [f"{row.name}: unverified, because the hash of the published file is not known: {text}" for text in found]


def _of_records(rows: Sequence[TableRow], columns: Sequence[str]) -> list[str]:
    """Return the warnings of the records in the cells, each with its row and columns."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for column, cell in zip(columns, row.cells, strict=True):
            for note in cell.notes:
                where.setdefault((row.name, note), []).append(column)
    return [f"{name} on {', '.join(names)}: {note}" for (name, note), names in where.items()]


def _of_protocols(layout: TableLayout) -> list[str]:
    names = list(dict.fromkeys(row.label for row in layout.rows if row.other is not None))
    if not names:
        return []
    return [f"not compared with runs of ovbench, because the table has another protocol: {', '.join(names)}"]


def _of_rules(layout: TableLayout) -> list[str]:
    """Return a note for every row with published figures of another metric than the table's."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in layout.rows:
        for column, rule in row.rules.items():
            if rule != layout.metric:
                where.setdefault((TableRow("", row.label, row.detail, ()).name, rule), []).append(column)
    return [
        f"{name} on {', '.join(columns)}: published as {rule} ({parse_metric(rule).rule}), not compared"
        for (name, rule), columns in where.items()
    ]


def _not_measured(layout: TableLayout, measurable: Sequence[str]) -> list[str]:
    """Return a note on the columns that ovbench cannot measure."""
    known = {*known_cards(), *measurable}
    foreign = [name for name in layout.columns if not name.endswith(".toml") and name not in known]
    if foreign and len(foreign) == len(layout.columns):
        return ["only published figures: ovbench cannot measure these columns"]
    return [f"only published figures: ovbench cannot measure {', '.join(foreign)}"] if foreign else []


def _row(
    row: LayoutRow, measured: Mapping[str, RecordFile], columns: Sequence[str], metric: str = "mIoU", changed: str = ""
) -> tuple[TableRow, list[str]]:
    """Build a row and its notes; ``changed`` describes how measured settings differ from published ones."""
    compared = not changed
    cells = tuple(
        _cell(row.published.get(name), measured.get(name), metric, compared and row.rules.get(name, metric) == metric)
        for name in columns
    )
    cells = tuple(
        replace(cell, notes=(*cell.notes, *_unsaid(measured.get(column), row.detail)))
        for column, cell in zip(columns, cells, strict=True)
    )
    notes = []
    name = TableRow(row.group, row.label, row.detail, ()).name
    published = None if row.published else row.printed_average  # some tables have only an average
    if row.mixed:
        notes.append(f"{name}: no published average, because its values have different protocols")
    elif all(cell.published is not None for cell in cells):
        published = _mean_as_printed([cell.published for cell in cells], row.printed_average)
        if row.average_fits:
            published = row.printed_average
        elif row.printed_average not in (None, published):
            notes.append(f"{name}: the average of the values is {published}, but {row.printed_average} is printed")
    average, reason = _average(cells, list(measured.values()), len(columns))
    if reason:
        notes.append(f"{name}: no measured average, {reason}")
    whole = replace(average, published=published, compared=compared and all(cell.compared for cell in cells))
    return TableRow(row.group, row.label, row.detail, cells, whole), notes


def _cell(published: str | None, found: RecordFile | None, metric: str, compared: bool) -> TableCell:
    if found is None or found.record["metrics"].get(metric) is None:
        return TableCell(published)
    metrics, data = found.record["metrics"], found.record["dataset"]
    bounds = bounds_of(found.record, metric)
    return TableCell(
        published, 100 * metrics[metric], None if bounds is None else (100 * bounds[0], 100 * bounds[1]), found.partial,
        data["images"], data["split_images"], str(found.path),
        rule=data["label_rule"] if published_label_rule(found.record["cell"]["dataset"]) != "correct" else None,
        compared=compared and rule_as_published(found.record) and not no_official_setting(*_pair(found))
        and not value_at(found.record, "arguments.classes"),
        notes=tuple(found.record.get("notes", ())),
    )  # fmt: skip


def _unsaid(found: RecordFile | None, detail: str) -> list[str]:
    """Return the facts of a run that its row does not name."""
    return [] if found is None else [fact for fact in run_facts(found.record) if fact not in detail.split(", ")]


def _pair(found: RecordFile) -> tuple[str, str]:
    return found.record["cell"]["method"], found.record["cell"]["dataset"]


def _mean_as_printed(values: Sequence[str | None], printed: str | None) -> str:
    """Return the exact mean with the digits of the printed average, or of the values; halves are rounded up."""
    numbers = [Decimal(value) for value in values if value is not None]
    digits = [len(text.partition(".")[2]) for text in ([printed] if printed else map(str, numbers))]
    mean = sum(numbers, Decimal(0)) / len(numbers)
    return str(mean.quantize(Decimal(1).scaleb(-max(digits)), ROUND_HALF_UP))


def _average(cells: Sequence[TableCell], found: Sequence[RecordFile], wanted: int) -> tuple[TableCell, str]:
    """Return the mean over all columns, and why there is none ("" if a value is missing)."""
    values = [cell.measured for cell in cells if cell.measured is not None]
    if not values or len(values) < wanted:
        return TableCell(), ""
    facts = dict.fromkeys(", ".join(run_facts(one.record)) or "none" for one in found)
    reason = why_not_averaged(found) or (f"different runs ({'; '.join(facts)})" if len(facts) > 1 else "")
    if reason:
        return TableCell(), reason
    return TableCell(measured=sum(values) / len(values), partial=any(cell.partial for cell in cells)), ""


def record_table(records: Sequence[RecordFile], metric: Metric = METRICS["mIoU"]) -> ComparisonTable:
    """Build a table of records: one row per method and what distinguishes its runs, one column per benchmark."""
    rows: dict[tuple[str, str], dict[str, list[RecordFile]]] = {}
    for found, detail in zip(records, run_details(records), strict=True):
        cell = found.record["cell"]
        rows.setdefault((cell["method"], detail), {}).setdefault(cell["dataset"], []).append(found)
    columns = tuple(sorted({f.record["cell"]["dataset"] for f in records}))
    made, notes = [], []
    for (method, changed), cells in sorted(rows.items()):
        chosen = {dataset: best for dataset, found in cells.items() if (best := newest(found))}
        row, said = _row(LayoutRow("", method, changed, {}), chosen, columns, metric.name)
        made.append(row)
        notes += said
    notes += _of_records(made, columns)
    notes += [f"{metric.name}: {metric.rule}"] if metric.name != "mIoU" else []
    ranked = _ranked(made, [metric.lower_is_better] * len(columns), metric.lower_is_better)
    return ComparisonTable(f"measured {metric.name} in percent", "", columns, ranked, tuple(notes), metric=metric.name)


def _ranked(rows: Sequence[TableRow], lower: Sequence[bool], lower_average: bool = False) -> tuple[TableRow, ...]:
    """Set the ranks of published and measured values, not of partial ones; in ``lower`` columns the lowest is best."""
    ranked = [[*row.cells, row.average] for row in rows]
    for group in dict.fromkeys(row.group for row in rows):
        members = [number for number, row in enumerate(rows) if row.group == group]
        for column, least in enumerate((*lower, lower_average)):
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
                        rank: dict[str, Any] = {f"rank_{name}": best.index(score) + 1}
                        ranked[n][column] = replace(ranked[n][column], **rank)
    return tuple(
        replace(row, cells=tuple(cells[:-1]), average=cells[-1]) for row, cells in zip(rows, ranked, strict=True)
    )
