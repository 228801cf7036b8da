"""Verdicts of the gate as a table, as Markdown and as JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from rich.table import Table

from ovbench.results.console import plain
from ovbench.results.gate import Verdict
from ovbench.results.markdown import escape, table_head, table_row
from ovbench.utils.files import write_bytes

HEADINGS = ("cell", "baseline {}", "now", "change", "95 %", "detects drops over", "verdict")


def _headings(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the headings with the name of the metric."""
    return [heading.format(verdicts[0].metric if verdicts else "mIoU") for heading in HEADINGS]


def verdict_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return one row of text per cell; scores are in percent."""
    return [
        [v.name, f"{100 * v.before:.2f}", f"{100 * v.after:.2f}", f"{100 * v.change:+.2f}",
         "-" if v.low is None or v.high is None else f"{100 * v.low:+.2f} to {100 * v.high:+.2f}",
         f"{100 * v.detectable:.2f}", "pass" if v.passed else "FAIL"]
        for v in verdicts
    ]  # fmt: skip


def verdict_remarks(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a line for each warning, setting that differs, similarity, and cell without an interval."""
    lines = list(dict.fromkeys(f"warning: {note}" for v in verdicts for note in v.warnings))
    for v in verdicts:
        lines += [f"{v.name}: setting {key} was {before}, is {now}" for key, before, now in v.unlike]
        lines += [f"{v.name}: {v.similarity}"] if v.similarity else []
        lines += [f"{v.name}: no interval, {v.no_interval}"] if v.no_interval else []
    return lines


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Return the table for the terminal."""
    table = Table(title="regression gate", title_justify="left")
    for number, name in enumerate(_headings(verdicts)):
        table.add_column(name, justify="right" if 0 < number < 6 else "left", overflow="fold")
    for row in verdict_rows(verdicts):
        table.add_row(*map(plain, row))
    return table


def gate_markdown(verdicts: Sequence[Verdict]) -> str:
    """Return the table and the remarks for a pull request."""
    lines = table_head(_headings(verdicts))
    lines += [table_row(map(escape, row)) for row in verdict_rows(verdicts)]
    lines += [f"\n{escape(remark)}" for remark in verdict_remarks(verdicts)]
    return "\n".join(lines) + "\n"


def write_junit(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write JUnit XML with one test case per cell."""
    failures = sum(not v.passed for v in verdicts)
    suite = ElementTree.Element("testsuite", name="ovbench gate", tests=str(len(verdicts)), failures=str(failures))
    for v in verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname="ovbench.gate", name=plain(v.name))
        if not v.passed:
            text = f"{v.metric} fell from {100 * v.before:.2f} to {100 * v.after:.2f}"
            ElementTree.SubElement(case, "failure", message=text)
    write_bytes(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))
