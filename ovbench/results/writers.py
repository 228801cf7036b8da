"""Comparison tables as text: for the terminal, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from markupsafe import Markup
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovbench.results.console import as_text, plain
from ovbench.results.latex import OTHER_ENGINE, latex, needs_other_engine
from ovbench.results.markdown import escape, table_head, table_row
from ovbench.results.tables import ComparisonTable, TableCell, TableRow
from ovbench.utils.html import html_templates

AVERAGE = "average"
LEAST_NAME = 18  # characters of the names of rows, in the terminal
BORDER = 3  # characters of a column beside its text
BOTH = "Each value: published, then measured with the difference."
MARKED = "The best and the second of a block are marked. *: only part of the benchmark was scored."
RULES = {"official": "o", "correct": "c"}
RULE_LEGEND = (
    "[o]: void pixels of 16-bit labels are counted as in the published code, as in the published figures of these "
    "methods; [c]: they are ignored, which is correct, and the value is not compared with these figures."
)
CSV_FIELDS = (
    "group", "row", "detail", "benchmark", "published", "measured", "difference", "low", "high", "images",
    "split_images", "partial", "rank_published", "rank_measured", "label_rule", "record", "notes",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a formula in a spreadsheet

Mark = Callable[[str, int | None], str]
Write = Callable[[ComparisonTable, bool], str]


def _parts(cell: TableCell, mark: Mark, intervals: bool) -> list[str]:
    """Return the published value, and the measured one with its difference."""
    parts = [] if cell.published is None else [mark(cell.published, cell.rank_published)]
    if cell.measured is not None:
        text = mark(f"{cell.measured:.{cell.digits}f}", cell.rank_measured) + ("*" if cell.partial else "")
        text += f" [{RULES.get(cell.rule, cell.rule)}]" if cell.rule else ""
        if cell.difference is not None:
            text += f" ({cell.difference:+.1f})"
        if intervals and cell.interval:
            text += f" [{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]"
        parts.append(text)
    return parts


def _notes(table: ComparisonTable) -> tuple[str, ...]:
    ruled = any(cell.rule for row in table.rows for cell in row.cells)
    both = any(cell.published is not None for row in table.rows for cell in row.cells)
    return (f"{BOTH} {MARKED}" if both else MARKED, *([RULE_LEGEND] if ruled else ()), *table.notes)


def _heads(table: ComparisonTable) -> tuple[str, ...]:
    return (*table.columns, AVERAGE) if table.average else table.columns


def _cells(table: ComparisonTable, row: TableRow) -> tuple[TableCell, ...]:
    return (*row.cells, row.average) if table.average else row.cells


def _one_line(text: str) -> str:
    return plain(" ".join(text.split()))


def _printable(table: ComparisonTable) -> ComparisonTable:
    """Return the table with every text in one line and without control characters; records may come from others."""
    rows = tuple(
        replace(row, group=_one_line(row.group), label=_one_line(row.label), detail=_one_line(row.detail))
        for row in table.rows
    )
    return replace(
        table, title=_one_line(table.title), source=_one_line(table.source), rows=rows,
        columns=tuple(map(_one_line, table.columns)), notes=tuple(map(_one_line, table.notes)),
    )  # fmt: skip


def _printed(write: Write) -> Write:
    @functools.wraps(write)
    def whole(table: ComparisonTable, intervals: bool) -> str:
        return write(_printable(table), intervals)

    return whole


@_printed
def as_rich(table: ComparisonTable, intervals: bool) -> str:
    """Return the table for the terminal: the best value is bold, the second underlined.

    Columns that do not fit side by side are printed as several tables, so that no number is broken.
    """
    room = Console().width
    parts = [_rich_part(table, intervals, columns, room) for columns in _side_by_side(table, intervals, room)]
    return as_text(*parts, *map(Text, _notes(table)))


def _rich_part(table: ComparisonTable, intervals: bool, columns: Mapping[int, int], room: int) -> Table:
    """Return a table of some of the columns, given by number and width."""
    made = Table(title=table.title, title_justify="left", show_lines=False)
    names = [line for row in table.rows for line in (row.group, row.label, row.detail)]
    left = room - sum(columns.values()) - BORDER * (len(columns) + 1) - 1
    made.add_column("row", overflow="fold", width=max(min(left, max(map(cell_len, names), default=0)), 1))
    for number, width in columns.items():
        head = "\n".join(textwrap.wrap(_heads(table)[number], width))
        made.add_column(head, justify="right", overflow="fold", width=width)
    before = None
    for row in table.rows:
        if row.group != before and row.group:
            made.add_section()
            made.add_row(Text(row.group, style="italic"))
        before = row.group
        name = Text(row.label)
        if row.detail:
            name.append(f"\n{row.detail}", style="dim")
        made.add_row(name, *(_rich_cell(_cells(table, row)[number], intervals) for number in columns))
    return made


def _rich_cell(cell: TableCell, intervals: bool) -> Text:
    text, styles = Text(), {None: "", 1: "bold", 2: "underline"}
    ranks = [cell.rank_published] * (cell.published is not None) + [cell.rank_measured]
    for part, rank in zip(_parts(cell, _plain, intervals), ranks, strict=False):
        text.append(("\n" if text else "") + part, style=styles[rank])
    return text


def _side_by_side(table: ComparisonTable, intervals: bool, room: int) -> list[dict[int, int]]:
    """Split the columns, with their widths, into as few tables as possible, of about equal size."""
    texts = [
        [part for row in table.rows for part in _parts(_cells(table, row)[number], _plain, intervals)]
        for number in range(len(_heads(table)))
    ]
    whole = [max(map(cell_len, (head, *parts))) for head, parts in zip(_heads(table), texts, strict=True)]
    words = [
        max(cell_len(word) for text in (head.replace("-", "- "), *parts) for word in text.split())
        for head, parts in zip(_heads(table), texts, strict=True)
    ]
    room -= LEAST_NAME + BORDER + 1
    if sum(whole) + BORDER * len(whole) <= room:
        return [dict(enumerate(whole))]
    for count in range(1, len(words) + 1):
        size = math.ceil(len(words) / count)
        parts = [dict(list(enumerate(words))[start : start + size]) for start in range(0, len(words), size)]
        if all(sum(part.values()) + BORDER * len(part) <= room for part in parts):
            break
    return parts


def _plain(text: str, rank: int | None) -> str:
    return text


@_printed
def as_markdown(table: ComparisonTable, intervals: bool) -> str:
    """Return a Markdown table with its notes."""

    def mark(text: str, rank: int | None) -> str:
        return {None: text, 1: f"**{text}**", 2: f"<u>{text}</u>"}[rank]

    lines = [f"**{escape(table.title)}**" + (f" ({escape(table.source)})" if table.source else ""), ""]
    lines += table_head(["row", *_heads(table)])
    before = None
    for row in table.rows:
        if row.group != before and row.group:
            lines.append(f"| *{escape(row.group)}* |" + " |" * len(_heads(table)))
        before = row.group
        name = escape(row.label) + (f"<br><sub>{escape(row.detail)}</sub>" if row.detail else "")
        values = ("<br>".join(_parts(cell, mark, intervals)) for cell in _cells(table, row))
        lines.append(table_row([name, *values]))
    first, *rest = map(escape, _notes(table))
    return "\n".join([*lines, "", first, *(f"\n- {note}" for note in rest)]) + "\n"


@_printed
def as_latex(table: ComparisonTable, intervals: bool) -> str:
    """Return a LaTeX tabular for the package booktabs."""

    def mark(text: str, rank: int | None) -> str:
        return {None: text, 1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}[rank]

    head = (table.title, table.source, *_notes(table))
    lines = [f"% {' '.join(line.split())}" for line in head if line]
    lines.append(r"\begin{tabular}{l" + "r" * len(_heads(table)) + "}")
    lines += [r"\toprule", " & ".join(["Method", *map(latex, _heads(table))]) + r" \\"]
    before = None
    for row in table.rows:
        if row.group != before:
            lines.append(r"\midrule")
            if row.group:
                lines.append(rf"\multicolumn{{{len(_heads(table)) + 1}}}{{l}}{{\emph{{{latex(row.group)}}}}} \\")
        before = row.group
        values = (" / ".join(_parts(cell, mark, intervals)) or "--" for cell in _cells(table, row))
        name = latex(row.label) + (rf" {{\footnotesize ({latex(row.detail)})}}" if row.detail else "")
        lines.append(" & ".join([name, *values]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", ""]
    body = "\n".join(lines)
    return f"% {OTHER_ENGINE}\n{body}" if needs_other_engine(body) else body


@_printed
def as_html(table: ComparisonTable, intervals: bool) -> str:
    """Return an HTML table, without a page around it."""

    def mark(text: str, rank: int | None) -> Markup:
        return Markup({None: "{}", 1: "<strong>{}</strong>", 2: "<u>{}</u>"}[rank]).format(text)

    rows = [
        {"row": row, "values": [Markup("<br>").join(_parts(cell, mark, intervals)) for cell in _cells(table, row)]}
        for row in table.rows
    ]
    template = html_templates("table").get_template("comparison.html")
    return template.render(table=table, heads=("row", *_heads(table)), rows=rows, notes=_notes(table))


@_printed
def as_csv(table: ComparisonTable, intervals: bool) -> str:
    """Return CSV with one line per row and benchmark."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for row in table.rows:
        for name, cell in zip(_heads(table), _cells(table, row), strict=True):
            low, high = cell.interval or (None, None)
            writer.writerow(
                [*map(csv_text, (row.group, row.label, row.detail, name)), cell.published, cell.measured,
                 cell.difference, low, high, cell.images, cell.split_images, cell.partial, cell.rank_published,
                 cell.rank_measured, cell.rule, csv_text(cell.record or ""), csv_text("; ".join(cell.notes))]
            )  # fmt: skip
    return buffer.getvalue()


def csv_text(text: str) -> str:
    """Return a text that a spreadsheet does not read as a formula, with an apostrophe in front if needed."""
    return f"'{text}" if text.startswith(FORMULA) else text


def as_json(table: ComparisonTable, intervals: bool) -> str:
    """Return the table as JSON."""

    def plain(cell: TableCell) -> dict[str, object]:
        return {**asdict(cell), "difference": cell.difference}

    rows = [
        {
            "group": row.group, "row": row.label, "detail": row.detail, "average": plain(row.average),
            "cells": {name: plain(cell) for name, cell in zip(table.columns, row.cells, strict=True)},
        }
        for row in table.rows
    ]  # fmt: skip
    whole = {
        "title": table.title, "source": table.source, "metric": table.metric, "columns": table.columns, "rows": rows,
        "notes": table.notes,
    }  # fmt: skip
    return json.dumps(whole, indent=1) + "\n"


FORMATS: dict[str, Write] = {
    "rich": as_rich, "markdown": as_markdown, "latex": as_latex, "csv": as_csv, "html": as_html, "json": as_json
}  # fmt: skip
