"""A comparison table as text: for the terminal, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from ovbench.results.console import as_text
from ovbench.results.tables import ComparisonTable, TableCell, TableRow

AVERAGE = "average"
LEGEND = (
    "Each value: published, then measured with the difference. Best and second of a block are marked. "
    "* only part of the benchmark was scored."
)
CSV_FIELDS = (
    "group", "row", "detail", "benchmark", "published", "measured", "difference", "low", "high", "images",
    "split_images", "partial", "rank_published", "rank_measured", "record",
)  # fmt: skip

Mark = Callable[[str, int | None], str]


def _parts(cell: TableCell, mark: Mark, intervals: bool, escape: Callable[[str], str] = str) -> list[str]:
    """Published, and measured with its difference."""
    parts = [] if cell.published is None else [mark(escape(cell.published), cell.rank_published)]
    if cell.measured is not None:
        text = mark(f"{cell.measured:.1f}", cell.rank_measured) + ("*" if cell.partial else "")
        if cell.difference is not None:
            text += f" ({cell.difference:+.1f})"
        if intervals and cell.interval:
            text += f" [{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]"
        parts.append(text)
    return parts


def _heads(table: ComparisonTable) -> tuple[str, ...]:
    return (*table.columns, AVERAGE) if table.average else table.columns


def _cells(table: ComparisonTable, row: TableRow) -> tuple[TableCell, ...]:
    return (*row.cells, row.average) if table.average else row.cells


def as_rich(table: ComparisonTable, intervals: bool) -> str:
    """Bold is best and underlined second; a cell has a line for each of its values."""
    made = Table(title=table.title, title_justify="left", show_lines=False)
    made.add_column("row", overflow="fold")
    for name in _heads(table):
        made.add_column(name, justify="right", overflow="fold")
    styles = {1: "bold", 2: "underline"}
    before = None
    for row in table.rows:
        if row.group != before and row.group:
            made.add_section()
            made.add_row(Text(row.group, style="italic"))
        before = row.group
        texts = []
        for cell in _cells(table, row):
            text = Text()
            ranks = [cell.rank_published] * (cell.published is not None) + [cell.rank_measured]
            for part, rank in zip(_parts(cell, lambda t, _: t, intervals), ranks, strict=False):
                text.append(("\n" if text else "") + part, style=styles.get(rank, ""))
            texts.append(text)
        name = Text(row.label)
        if row.detail:
            name.append(f"\n{row.detail}", style="dim")
        made.add_row(name, *texts)
    return as_text(made) + "".join(f"{note}\n" for note in (LEGEND, *table.notes))


def as_markdown(table: ComparisonTable, intervals: bool) -> str:
    def mark(text: str, rank: int | None) -> str:
        return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(rank, text)

    def plain(text: str) -> str:
        return text.replace("|", "\\|")

    lines = [f"**{table.title}**" + (f" ({table.source})" if table.source else ""), ""]
    lines.append("| row | " + " | ".join(_heads(table)) + " |")
    lines.append("|---|" + "--:|" * len(_heads(table)))
    before = None
    for row in table.rows:
        if row.group != before and row.group:
            lines.append(f"| *{plain(row.group)}* |" + " |" * len(_heads(table)))
        before = row.group
        name = plain(row.label) + (f"<br><sub>{plain(row.detail)}</sub>" if row.detail else "")
        values = ("<br>".join(_parts(cell, mark, intervals)) for cell in _cells(table, row))
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join([*lines, "", LEGEND, *(f"\n- {note}" for note in table.notes)]) + "\n"


def as_latex(table: ComparisonTable, intervals: bool) -> str:
    """A booktabs tabular."""

    def escape(text: str) -> str:
        text = text.replace("\\", r"\textbackslash ")
        return re.sub(r"[&%$#_{}]", lambda m: "\\" + m[0], text).replace("~", r"\textasciitilde{}")

    def mark(text: str, rank: int | None) -> str:
        return {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(rank, text)

    lines = [f"% {line}" for line in (table.title, table.source, LEGEND, *table.notes) if line]
    lines.append(r"\begin{tabular}{l" + "r" * len(_heads(table)) + "}")
    lines += [r"\toprule", " & ".join(["Method", *map(escape, _heads(table))]) + r" \\"]
    before = None
    for row in table.rows:
        if row.group != before:
            lines.append(r"\midrule")
            if row.group:
                lines.append(rf"\multicolumn{{{len(_heads(table)) + 1}}}{{l}}{{\emph{{{escape(row.group)}}}}} \\")
        before = row.group
        values = (" / ".join(_parts(cell, mark, intervals)) or "--" for cell in _cells(table, row))
        lines.append(" & ".join([escape(row.label), *values]) + r" \\")
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
    lines += [f"<p>{html.escape(note)}</p>" for note in (LEGEND, *table.notes)]
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
                [row.group, row.label, row.detail, name, cell.published, cell.measured, cell.difference, low, high,
                 cell.images, cell.split_images, cell.partial, cell.rank_published, cell.rank_measured, cell.record]
            )  # fmt: skip
    return buffer.getvalue()


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
    whole = {"title": table.title, "source": table.source, "columns": table.columns, "rows": rows, "notes": table.notes}
    return json.dumps(whole, indent=1) + "\n"


FORMATS: dict[str, Callable[[ComparisonTable, bool], str]] = {
    "rich": as_rich, "markdown": as_markdown, "latex": as_latex, "csv": as_csv, "html": as_html, "json": as_json
}  # fmt: skip
