"""Markdown page with the records of a suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovbench.evaluation.record import warnings_of
from ovbench.results.console import percent
from ovbench.results.markdown import escape, table_head, table_row

COLUMNS = ("row", "benchmark", "mIoU", "95 %", "mAcc", "aAcc", "images")


def suite_page(
    name: str, title: str, source: str, records: Sequence[dict[str, Any]], labels: Mapping[str, str], drops: str = ""
) -> str:
    """Return a page with a heading, the table in percent, drops, region sources and weights.

    Args:
        name: Name of the suite.
        title: Heading of the page.
        source: The publication of the suite.
        records: One record per row, in order.
        labels: Labels of the rows, by settings hash.
        drops: Table of the drops from the baseline, "" for none.
    """
    lines = [f"# {escape(title)}", "", f"Suite `{name}`. {escape(source)}".rstrip(), ""]
    lines += table_head(COLUMNS, left=2)
    for record in records:
        metrics, low_high = record["metrics"], record["metrics"]["mIoU_interval"]
        interval = "-" if low_high is None else f"{100 * low_high[0]:.1f} to {100 * low_high[1]:.1f}"
        partial = "" if record["status"] == "complete" else " (partial)"
        label, images = labels.get(record["settings_sha256"], ""), record["dataset"]["images"]
        lines.append(
            table_row(map(escape, [
                label, record["cell"]["dataset"], percent(metrics["mIoU"]), interval, percent(metrics["mAcc"]),
                percent(metrics["aAcc"]), f"{images}{partial}",
            ]))
        )  # fmt: skip
    lines += ["", "Drop from the baseline of the suite, and means of its groups:", "", drops.rstrip()] if drops else []
    made = {"regions": {record["cell"]["regions"].get("source") for record in records} - {None}}
    for record in records:
        for kind, weights in record["weights"].items():
            made.setdefault(kind, set()).add(f"{weights['name']} ({weights['sha256'][:12]})")
    lines += ["", *(f"{kind}: {escape(', '.join(sorted(names)))}  " for kind, names in made.items() if names)]
    lines += [line for note in warnings_of(records) for line in ("", escape(note))]
    return "\n".join(lines).rstrip() + "\n"
