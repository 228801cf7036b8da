"""A comparison table as text: for the terminal, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovbench.results.console import as_text
from ovbench.results.tables import ComparisonTable, TableCell, TableRow

AVERAGE = "average"
LEAST_NAME = 18  # characters for the names of rows, in the terminal
BORDER = 3  # characters that each column takes beside its text
LEGEND = (
    "Each value: published, then measured with the difference. Best and second of a block are marked. "
    "* only part of the benchmark was scored."
)
RULES = {"official": "o", "correct": "c"}
RULE_LEGEND = (
    "[o] void pixels of 16-bit labels count as in the published code, which the published figures of the methods here "
    "follow; [c] they are ignored, as is correct, and the value is compared with none of those."
)
CSV_FIELDS = (
    "group", "row", "detail", "benchmark", "published", "measured", "difference", "low", "high", "images",
    "split_images", "partial", "rank_published", "rank_measured", "label_rule", "record",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the begin of a formula

Mark = Callable[[str, int | None], str]


def _parts(cell: TableCell, mark: Mark, intervals: bool, escape: Callable[[str], str] = str) -> list[str]:
    """Published, and measured with its difference."""
    parts = [] if cell.published is None else [mark(escape(cell.published), cell.rank_published)]
    if cell.measured is not None:
        text = mark(f"{cell.measured:.1f}", cell.rank_measured) + ("*" if cell.partial else "")
        text += f" [{RULES.get(cell.rule, cell.rule)}]" if cell.rule else ""
        if cell.difference is not None:
            text += f" ({cell.difference:+.1f})"
        if intervals and cell.interval:
            text += f" [{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]"
        parts.append(text)
    return parts


def _notes(table: ComparisonTable) -> tuple[str, ...]:
    ruled = any(cell.rule for row in table.rows for cell in row.cells)
    return (LEGEND, *([RULE_LEGEND] if ruled else ()), *table.notes)


def _heads(table: ComparisonTable) -> tuple[str, ...]:
    return (*table.columns, AVERAGE) if table.average else table.columns


def _cells(table: ComparisonTable, row: TableRow) -> tuple[TableCell, ...]:
    return (*row.cells, row.average) if table.average else row.cells


def as_rich(table: ComparisonTable, intervals: bool) -> str:
    """Bold is best and underlined second; a cell has a line for each of its values. Columns that do not fit side by
    side are printed one part below the other, so that no number is broken."""
    room = Console().width
    parts = [_rich_part(table, intervals, columns, room) for columns in _side_by_side(table, intervals, room)]
    return as_text(*parts) + "".join(f"{note}\n" for note in _notes(table))


def _rich_part(table: ComparisonTable, intervals: bool, columns: Mapping[int, int], room: int) -> Table:
    """Some of the columns, by their number and width."""
    made = Table(title=table.title, title_justify="left", show_lines=False)
    names = [line for row in table.rows for line in (row.group, row.label, row.detail)]
    left = room - sum(columns.values()) - BORDER * (len(columns) + 1) - 1
    made.add_column("row", overflow="fold", width=max(min(left, max(map(len, names), default=0)), 1))
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
    text, styles = Text(), {1: "bold", 2: "underline"}
    ranks = [cell.rank_published] * (cell.published is not None) + [cell.rank_measured]
    for part, rank in zip(_parts(cell, _plain, intervals), ranks, strict=False):
        text.append(("\n" if text else "") + part, style=styles.get(rank, ""))
    return text


def _side_by_side(table: ComparisonTable, intervals: bool, room: int) -> list[dict[int, int]]:
    """The columns of each part with their widths: in as few parts as can be, about equally many in each."""
    texts = [
        [part for row in table.rows for part in _parts(_cells(table, row)[number], _plain, intervals)]
        for number in range(len(_heads(table)))
    ]
    whole = [max(map(len, (head, *parts))) for head, parts in zip(_heads(table), texts, strict=True)]
    words = [
        max(len(word) for text in (head.replace("-", "- "), *parts) for word in text.split())
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


def as_markdown(table: ComparisonTable, intervals: bool) -> str:
    def mark(text: str, rank: int | None) -> str:
        return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(rank, text)

    lines = [f"**{markdown(table.title)}**" + (f" ({markdown(table.source)})" if table.source else ""), ""]
    lines.append("| row | " + " | ".join(map(markdown, _heads(table))) + " |")
    lines.append("|---|" + "--:|" * len(_heads(table)))
    before = None
    for row in table.rows:
        if row.group != before and row.group:
            lines.append(f"| *{markdown(row.group)}* |" + " |" * len(_heads(table)))
        before = row.group
        name = markdown(row.label) + (f"<br><sub>{markdown(row.detail)}</sub>" if row.detail else "")
        values = ("<br>".join(_parts(cell, mark, intervals)) for cell in _cells(table, row))
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    first, *rest = map(markdown, _notes(table))
    return "\n".join([*lines, "", first, *(f"\n- {note}" for note in rest)]) + "\n"


def markdown(text: str) -> str:
    """Text that Markdown, in a table too, shows as it is: what means something to it, or to HTML, is escaped."""
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|[\\`*|\[\]$~]", lambda m: "\\" + m[0], text)


LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return re.sub(r"[&%$#_{}\\~^<>|\"]", lambda m: LATEX.get(m[0], "\\" + m[0]), " ".join(text.split()))


def as_latex(table: ComparisonTable, intervals: bool) -> str:
    """A booktabs tabular."""

    def mark(text: str, rank: int | None) -> str:
        return {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(rank, text)

    told = (table.title, table.source, *_notes(table))
    lines = [f"% {' '.join(line.split())}" for line in told if line]
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
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_html(table: ComparisonTable, intervals: bool) -> str:
    def mark(text: str, rank: int | None) -> str:
        return {1: f"<strong>{text}</strong>", 2: f"<u>{text}</u>"}.get(rank, text)

    lines = ["<table>", f"<caption>{html.escape(table.title)}</caption>", "<thead><tr>"]
    lines += [f'<th scope="col">{html.escape(name)}</th>' for name in ("row", *_heads(table))]
    lines.append("</tr></thead>\n<tbody>")
    before = None
    for row in table.rows:
        if row.group != before and row.group:
            span = len(_heads(table)) + 1
            lines.append(f'<tr><th scope="rowgroup" colspan="{span}">{html.escape(row.group)}</th></tr>')
        before = row.group
        detail = f"<br><small>{html.escape(row.detail)}</small>" if row.detail else ""
        values = "".join(f"<td>{'<br>'.join(_parts(cell, mark, intervals))}</td>" for cell in _cells(table, row))
        lines.append(f'<tr><th scope="row">{html.escape(row.label)}{detail}</th>{values}</tr>')
    lines.append("</tbody>\n</table>")
    lines += [f"<p>{html.escape(note)}</p>" for note in _notes(table)]
    return "\n".join(lines) + "\n"


def as_csv(table: ComparisonTable, intervals: bool) -> str:
    """One line per row and benchmark, everything known of it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for row in table.rows:
        for name, cell in zip(_heads(table), _cells(table, row), strict=True):
            low, high = cell.interval or (None, None)
            writer.writerow(
                [*map(csv_text, (row.group, row.label, row.detail, name)), cell.published, cell.measured,
                 cell.difference, low, high, cell.images, cell.split_images, cell.partial, cell.rank_published,
                 cell.rank_measured, cell.rule, csv_text(cell.record or "")]
            )  # fmt: skip
    return buffer.getvalue()


def csv_text(text: str) -> str:
    """A text that no spreadsheet takes for a formula: with an apostrophe in front where it begins like one."""
    return f"'{text}" if text.startswith(FORMULA) else text


def as_json(table: ComparisonTable, intervals: bool) -> str:
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


FORMATS: dict[str, Callable[[ComparisonTable, bool], str]] = {
    "rich": as_rich, "markdown": as_markdown, "latex": as_latex, "csv": as_csv, "html": as_html, "json": as_json
}  # fmt: skip
