"""Tables for the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

MANY_CLASSES, FEW_CLASSES = 64, 12  # on a terminal, of more classes only the first and last few are printed
DIRECTIONS = range(0x202A, 0x202F), range(0x2066, 0x206A)  # control characters of text direction


def plain(text: object) -> str:
    r"""Return a text as one line that is safe to print: control characters are shown as escapes.

    Example:
        >>> plain("a\x1b[2J")
        'a\\x1b[2J'
    """
    return "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    if hidden or any(ord(character) in codes for codes in DIRECTIONS):
        return character.encode("unicode_escape").decode()
    return character


def percent(fraction: float | None) -> str:
    """Return a fraction in percent with two decimals, "-" for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _between(interval: list[float] | None) -> str:
    return "-" if interval is None else "-".join(f"{100 * bound:.1f}" for bound in interval)


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of texts.

    Args:
        head: Names of the columns; a column without any text is left out.
        rows: Rows of the same length.
    """
    used = [number for number in range(len(head)) if any(row[number] for row in rows)]
    table = Table()
    for number in used:
        table.add_column(head[number], justify="right" if number > 2 else "left")
    for row in rows:
        table.add_row(*(plain(row[number]) for number in used))
    return table


def _warnings(records: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the warnings of records, each once with its datasets, as a caption."""
    where: dict[str, dict[str, None]] = {}
    for record in records:
        for note in record.get("notes", ()):
            where.setdefault(note, {})[record["cell"]["dataset"]] = None
    return "\n".join(plain(f"{', '.join(names)}: {note}") for note, names in where.items()) or None


def class_table(record: dict[str, Any]) -> Table:
    """Return a table with IoU and accuracy of every class of a record, and the scores of other counts, in percent."""
    from ovbench.metrics.named import METRICS, PIXELS  # numpy, which other tables do not need

    cell, data = record["cell"], record["dataset"]
    share = "" if data["images"] == data["split_images"] else f" of {data['split_images']}"
    table = Table(
        title=f"{plain(cell['method'])} on {plain(cell['dataset'])}, {data['images']}{share} images",
        title_justify="left",
    )
    table.add_column("class")
    for name in ("IoU", "accuracy"):
        table.add_column(name, justify="right")
    for row in _class_rows(record, table):
        table.add_row(plain(row["class"]), percent(row["iou"]), percent(row["acc"]))
    table.add_section()
    metrics = record["metrics"]
    table.caption, table.caption_justify = _warnings([record]), "left"
    table.add_row("mean", percent(metrics["mIoU"]), percent(metrics["mAcc"]), style="bold")
    table.add_row("all pixels", "", percent(metrics["aAcc"]))
    asked = [name for name, metric in METRICS.items() if metric.counts != PIXELS and name in metrics]
    for name in asked:
        table.add_row(name, percent(metrics[name]))
    return table


def _class_rows(record: Mapping[str, Any], table: Table) -> list[Mapping[str, Any]]:
    """Return the classes to print: on a terminal only the best and worst of many, which the title then says."""
    rows = record["per_class"]
    scored = sorted((row for row in rows if row["iou"] is not None), key=lambda row: -row["iou"])
    if len(scored) <= MANY_CLASSES or not Console().is_terminal:
        return rows
    few = f"best and worst {FEW_CLASSES} of {len(scored)} classes with a score"
    table.title = f"{table.title}\n{few}; all: --json, or in a pipe"
    return [*scored[:FEW_CLASSES], *scored[-FEW_CLASSES:]]


def summary_table(records: list[dict[str, Any]], labels: Mapping[str, str] | None = None) -> Table:
    """Return a table with one row per record: mIoU, mAcc and aAcc in percent, images and time.

    Args:
        records: The records of a run.
        labels: Labels of the rows of a suite by settings hash; without them, a row shows the method and its deviations.
    """
    from ovbench.results.record_files import deviations_of

    table = Table(
        title="mIoU in percent", title_justify="left", caption=_warnings(records), caption_justify="left"
    )  # fmt: skip
    # labels of a suite already show what differs, so the method is added only if there are several
    one_method = bool(labels) and len({record["cell"]["method"] for record in records}) == 1
    if labels:
        longest = max(len(word) for label in labels.values() for word in label.split())
        table.add_column("row", overflow="fold", min_width=longest)
    for name in ("dataset",) if one_method else ("method", "dataset"):
        table.add_column(name, overflow="fold")
    for name in ("mIoU", "95 %", "mAcc", "aAcc", "images", "seconds"):
        table.add_column(name, justify="right")
    for record in records:
        cell, metrics = record["cell"], record["metrics"]
        partial = "" if record["status"] == "complete" else " (partial)"
        changed = "" if labels else deviations_of(record)
        table.add_row(
            *([labels.get(record["settings_sha256"], "")] if labels else []),
            *([] if one_method else [plain(cell["method"] + (f" ({changed})" if changed else ""))]),
            plain(cell["dataset"]), percent(metrics["mIoU"]), _between(metrics["mIoU_interval"]),
            percent(metrics["mAcc"]),
            percent(metrics["aAcc"]), f"{record['dataset']['images']}{partial}",
            f"{record['time']['total_s']:.1f}",
        )  # fmt: skip
    return table


def share_table(shares: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of classes with their percentage of the pixels, from dicts with class and share."""
    table = Table()
    table.add_column("class")
    table.add_column("pixels %", justify="right")
    for row in shares:
        table.add_row(plain(row["class"]), percent(row["share"]))
    return table


def as_text(*tables: Table | Text) -> str:
    """Return tables as text with the width of stdout, with colours only for a terminal.

    Text in a cell that looks like markup ("[dog]") is not interpreted.
    """
    console = Console(highlight=False, markup=False)
    with console.capture() as captured:
        for table in tables:
            console.print(table)
    return captured.get()


def as_tsv(table: Table) -> str:
    r"""Return a table with tabs between its columns, for pipes and files; title and caption are lines with "#".

    Example:
        >>> table = Table("class", "IoU", title="clip on mini")
        >>> table.add_row("red ring", "3.82")
        >>> as_tsv(table).splitlines()
        ['# clip on mini', 'class\tIoU', 'red ring\t3.82']
    """
    columns = [[column.header, *column.cells] for column in table.columns]
    lines = ["\t".join(" ".join(str(cell).split()) for cell in row) for row in zip(*columns, strict=True)]
    above, below = (str(text).splitlines() if text else [] for text in (table.title, table.caption))
    return "\n".join([*(f"# {text}" for text in above), *lines, *(f"# {text}" for text in below), ""])


def show(*tables: Table) -> None:
    """Print tables to stdout: with lines on a terminal, with tabs in a pipe or file.

    They are printed through click, because rich ends with exit code 1 if the reader closes the pipe.
    """
    on_terminal = Console().is_terminal
    for table in tables:
        is_plain = not on_terminal and isinstance(table, Table)
        click.echo(as_tsv(table) if is_plain else as_text(table), nl=False)
