"""Tables for the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table

TURNS = range(0x202A, 0x202F), range(0x2066, 0x206A)  # characters that turn the direction of writing


def plain(text: object) -> str:
    """A text from a file as one line for the terminal: characters that could move the cursor, hide what is printed or
    turn it around are shown as their escapes."""
    return "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    if hidden or any(ord(character) in turn for turn in TURNS):
        return character.encode("unicode_escape").decode()
    return character


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _between(interval: list[float] | None) -> str:
    return "-" if interval is None else "-".join(f"{100 * bound:.1f}" for bound in interval)


def class_table(record: dict[str, Any]) -> Table:
    """IoU and accuracy of every class of one record, in percent."""
    cell, data = record["cell"], record["dataset"]
    share = "" if data["images"] == data["split_images"] else f" of {data['split_images']}"
    table = Table(
        title=f"{plain(cell['method'])} on {plain(cell['dataset'])}, {data['images']}{share} images",
        title_justify="left",
    )
    table.add_column("class")
    for name in ("IoU", "accuracy"):
        table.add_column(name, justify="right")
    for row in record["per_class"]:
        table.add_row(plain(row["class"]), percent(row["iou"]), percent(row["acc"]))
    table.add_section()
    metrics = record["metrics"]
    table.add_row("mean", percent(metrics["mIoU"]), percent(metrics["mAcc"]), style="bold")
    table.add_row("all pixels", "", percent(metrics["aAcc"]))
    return table


def summary_table(records: list[dict[str, Any]], labels: Mapping[str, str] | None = None) -> Table:
    """One row per cell: mIoU, mean and pixel accuracy in percent, images and time; with ``labels``, by the hash of a
    cell's settings, the rows of a suite, else the method with what is not as published."""
    from ovbench.results.found import told_apart

    table = Table(title="mIoU in percent", title_justify="left")
    # a suite says in its labels what differs, so that its method is named only where there are several
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
        changed = "" if labels else told_apart(record)
        table.add_row(
            *([labels.get(record["settings_sha256"], "")] if labels else []),
            *([] if one_method else [plain(cell["method"] + (f" ({changed})" if changed else ""))]),
            plain(cell["dataset"]), percent(metrics["mIoU"]), _between(metrics["mIoU_interval"]),
            percent(metrics["mAcc"]),
            percent(metrics["aAcc"]), f"{record['dataset']['images']}{partial}",
            f"{record['time']['total_s']:.1f}",
        )  # fmt: skip
    return table


def as_text(*tables: Table) -> str:
    """As stdout would have them: with its width, and with colours only for a terminal. What looks like markup in a cell
    ("[dog]") is text."""
    console = Console(highlight=False, markup=False)
    with console.capture() as captured:
        for table in tables:
            console.print(table)
    return captured.get()


def show(*tables: Table) -> None:
    """Print to stdout; not by rich itself, which answers a reader that has gone with exit code 1."""
    click.echo(as_text(*tables), nl=False)
