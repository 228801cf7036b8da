"""Compare two runs on the same images: what changed, and whether it is significant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from ovbench.evaluation.record import read_record
from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.interval import Difference, counts_in_order, image_iou, paired_difference
from ovbench.results.console import plain
from ovbench.results.record_counts import read_counts
from ovbench.utils.differences import Mismatch, mismatches
from ovbench.utils.errors import InputError

# fields of the dataset that must be equal; other differences are shown
DATASET_FIELDS = ("title", "split", "classes", "label_rule")


class CountedRun(NamedTuple):
    """A record with the counts of its images by id."""

    path: Path
    record: dict[str, Any]
    counts: dict[str, PixelCounts]


class Comparison(NamedTuple):
    """The paired difference of two runs on the images ``ids`` that both counted.

    ``image_change`` is the change of each image's mean IoU, float (N,); ``changed`` has the settings that differ.
    """

    first: CountedRun
    second: CountedRun
    ids: list[str]
    difference: Difference
    image_change: np.ndarray
    changed: list[Mismatch]


def load_run(path: Path) -> CountedRun:
    """Read a record, and the counts of its images from the ledger beside it.

    Raises:
        InputError: If the record or the ledger is missing or damaged.
    """
    record = read_record(path)
    try:
        counted = read_counts(path, record)
    except InputError as error:
        raise InputError(error.what, where=error.where or str(path), fix=error.fix) from error
    if not counted.counts:
        raise InputError("the record has no scored image", where=str(path))
    return CountedRun(path, record, counted.counts)


def compare_runs(first: CountedRun, second: CountedRun) -> Comparison:
    """Compute ``second`` minus ``first``.

    Raises:
        InputError: If the runs have different datasets or no common image.
    """
    mine, other = first.record["dataset"], second.record["dataset"]
    for key in DATASET_FIELDS:
        if mine[key] != other[key]:
            raise InputError(
                f'the runs are not comparable: dataset "{key}" differs', where=f"{first.path.name}, {second.path.name}",
                fix=None if key == "classes" else f"first has {mine[key]!r}, second {other[key]!r}",
            )  # fmt: skip
    ids = sorted(first.counts.keys() & second.counts.keys())
    if not ids:
        raise InputError("the runs have no common image", where=f"{first.path.name}, {second.path.name}")
    classes = len(mine["classes"])
    before, after = (counts_in_order(run.counts, ids, classes) for run in (first, second))
    return Comparison(
        first, second, ids, paired_difference(before, after),
        image_iou(after) - image_iou(before), mismatches(first.record["cell"], second.record["cell"]),
    )  # fmt: skip


def as_dict(found: Comparison, most: int) -> dict[str, Any]:
    """Return the comparison as JSON data with fractions, and the ``most`` images that changed most."""
    names = found.first.record["dataset"]["classes"]
    d = found.difference
    order = np.argsort(-np.abs(found.image_change), kind="stable")[:most]
    return {
        "images": len(found.ids),
        "warnings": _warnings(found.first.record, found.second.record),
        "only_in_first": len(found.first.counts) - len(found.ids),
        "only_in_second": len(found.second.counts) - len(found.ids),
        "settings": [{"key": k, "first": a, "second": b} for k, a, b in found.changed],
        "mIoU_change": d.miou,
        "interval": None if d.interval is None else [d.interval.low, d.interval.high],
        **({"no_interval": d.why} if d.interval is None else {}),
        "classes": [
            {"class": name, "change": float(change), "p_value": float(p)}
            for name, change, p in zip(names, d.iou, d.p_value, strict=True)
            if not np.isnan(change)
        ],
        "moved_most": [{"image": found.ids[i], "change": float(found.image_change[i])} for i in order],
    }


def _warnings(*records: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(note for record in records for note in record.get("notes", ())))


def tables(result: Mapping[str, Any], significant: float = 0.05) -> list[Table]:
    """Return tables for the terminal: mIoU, settings that differ, classes and images that changed most."""
    bounds = ["-", "-"] if result["interval"] is None else [f"{100 * bound:+.2f}" for bound in result["interval"]]
    why = f"\nno interval: {result['no_interval']}" if result["interval"] is None else ""
    warnings = "\n".join(f"warning: {plain(note)}" for note in result["warnings"])
    head = Table(
        title=f"second minus first on {result['images']} images{why}", title_justify="left", caption=warnings or None,
        caption_justify="left",
    )  # fmt: skip
    for name in ("mIoU change", "95 % from", "to"):
        head.add_column(name, justify="right")
    head.add_row(f"{100 * result['mIoU_change']:+.2f}", *bounds)
    settings = Table(title="settings that differ", title_justify="left")
    for name in ("setting", "first", "second"):
        settings.add_column(name, overflow="fold")
    for row in result["settings"]:
        settings.add_row(*(plain(row[name]) for name in ("key", "first", "second")))
    changed = [row for row in result["classes"] if row["p_value"] < significant]
    classes = Table(title=f"classes that changed ({len(changed)} of {len(result['classes'])})", title_justify="left")
    for name in ("class", "IoU change", "p, corrected"):
        classes.add_column(name, justify="left" if name == "class" else "right")
    for row in sorted(changed, key=lambda row: -abs(row["change"])):
        classes.add_row(plain(row["class"]), f"{100 * row['change']:+.2f}", f"{row['p_value']:.3f}")
    moved = Table(title="images that changed most", title_justify="left")
    moved.add_column("image")
    moved.add_column("change of its mean IoU", justify="right")
    for row in result["moved_most"]:
        moved.add_row(plain(row["image"]), f"{100 * row['change']:+.2f}")
    return [head, *([settings] if result["settings"] else []), *([classes] if changed else []), moved]
