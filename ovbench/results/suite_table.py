"""The rows of a suite as a Markdown page, from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovbench.results.console import percent
from ovbench.results.writers import markdown

COLUMNS = ("row", "benchmark", "mIoU", "95 %", "mAcc", "aAcc", "images")


def suite_page(name: str, title: str, source: str, records: Sequence[dict[str, Any]], labels: Mapping[str, str]) -> str:
    """A heading, the table in percent, and what made it: region source, weights and revision.

    ``labels`` are by the hash of a cell's settings; the rows keep the order of ``records``.
    """
    lines = [f"# {markdown(title)}", "", f"Suite `{name}`. {markdown(source)}".rstrip(), ""]
    lines += [_row(COLUMNS), "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    for record in records:
        metrics, low_high = record["metrics"], record["metrics"]["mIoU_interval"]
        interval = "-" if low_high is None else f"{100 * low_high[0]:.1f} to {100 * low_high[1]:.1f}"
        partial = "" if record["status"] == "complete" else " (partial)"
        label, images = labels.get(record["settings_sha256"], ""), record["dataset"]["images"]
        lines.append(
            _row([
                label, record["cell"]["dataset"], percent(metrics["mIoU"]), interval, percent(metrics["mAcc"]),
                percent(metrics["aAcc"]), f"{images}{partial}",
            ])
        )  # fmt: skip
    made = {"regions": {record["cell"]["regions"].get("source") for record in records} - {None}}
    for record in records:
        for kind, weights in record["weights"].items():
            made.setdefault(kind, set()).add(f"{weights['name']} ({weights['sha256'][:12]})")
    lines += ["", *(f"{kind}: {markdown(', '.join(sorted(names)))}  " for kind, names in made.items() if names)]
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown(str(cell)) for cell in cells) + " |"
