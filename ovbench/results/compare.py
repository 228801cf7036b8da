"""Compare two runs on the same images: what changed, and whether it is significant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from ovbench.evaluation.record import read_record, warnings_of
from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.extra_counts import ExtraCounts
from ovbench.metrics.influence import influence
from ovbench.metrics.interval import Difference, Estimate, difference, image_iou, paired_difference
from ovbench.metrics.named import METRICS, PIXELS, Metric, class_list
from ovbench.metrics.similarity import Similarity
from ovbench.metrics.stacked import CountedImages, counts_in_order
from ovbench.results.console import percent, plain
from ovbench.results.record_counts import read_counts
from ovbench.utils.differences import Mismatch, mismatches
from ovbench.utils.errors import InputError

# fields of the dataset that must be equal; other differences are shown
DATASET_FIELDS = ("title", "split", "classes", "label_rule")


class CountedRun(NamedTuple):
    """A record with the counts of its images by id; ``extra`` has other counts by their name."""

    path: Path
    record: dict[str, Any]
    counts: dict[str, PixelCounts]
    extra: Mapping[str, Mapping[str, ExtraCounts]] = MappingProxyType({})


class Comparison(NamedTuple):
    """The paired difference of two runs on the images ``ids`` that both counted.

    ``image_change`` is the change of each image's mean IoU, float (N,); ``changed`` has the settings that differ.
    ``metric`` is the metric of ``values``, its score in both runs, and of ``change``.
    """

    first: CountedRun
    second: CountedRun
    ids: list[str]
    difference: Difference
    image_change: np.ndarray
    changed: list[Mismatch]
    metric: Metric
    values: tuple[float, float]
    change: Estimate
    similarity: Similarity | None = None


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
    return CountedRun(path, record, counted.counts, counted.extra)


def counted_images(run: CountedRun, ids: Sequence[str]) -> CountedImages:
    """Return the counts of chosen images in a given order."""
    extra = {name: [counts[i] for i in ids] for name, counts in run.extra.items()}
    return CountedImages([run.counts[i] for i in ids], len(run.record["dataset"]["classes"]), extra)


def compare_runs(
    first: CountedRun, second: CountedRun, metric: Metric = METRICS["mIoU"], similarity: Similarity | None = None
) -> Comparison:
    """Compute ``second`` minus ``first``.

    Args:
        first: A run.
        second: Another run on the same images.
        metric: The metric whose change is estimated.
        similarity: Similarity of the classes, for metrics that use it.

    Raises:
        InputError: If the runs have different datasets or no common image, or lack the counts of the metric.
    """
    ids, classes = common_images(first, second), len(first.record["dataset"]["classes"])
    before, after = (counts_in_order(run.counts, ids, classes) for run in (first, second))
    about = class_list(first.record["dataset"], similarity)
    refuse_without_counts(metric, (first, second))
    if why := metric.why_not(about):
        raise InputError(why)
    influences = [influence(metric, counted_images(run, ids), about) for run in (first, second)]
    return Comparison(
        first, second, ids, paired_difference(before, after),
        image_iou(after) - image_iou(before), mismatches(first.record["cell"], second.record["cell"]),
        metric, (influences[0].value, influences[1].value), difference(*influences), similarity,
    )  # fmt: skip


def common_images(first: CountedRun, second: CountedRun) -> list[str]:
    """Return the ids of the images that both runs counted, sorted.

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
    return ids


def refuse_without_counts(metric: Metric, runs: Sequence[CountedRun]) -> None:
    """Raise InputError if a run lacks the counts of a metric."""
    for run in runs:
        if metric.counts != PIXELS and metric.counts not in run.extra:
            raise InputError(
                f"the run has no {metric.counts} counts for {metric.name}", where=str(run.path),
                fix=f"run it with --metrics {metric.counts}",
            )  # fmt: skip


def as_dict(found: Comparison, most: int) -> dict[str, Any]:
    """Return the comparison as JSON data with fractions, and the ``most`` images that changed most."""
    names = found.first.record["dataset"]["classes"]
    d = found.difference
    order = np.argsort(-np.abs(found.image_change), kind="stable")[:most]
    return {
        "images": len(found.ids),
        "warnings": warnings_of([found.first.record, found.second.record]),
        "only_in_first": len(found.first.counts) - len(found.ids),
        "only_in_second": len(found.second.counts) - len(found.ids),
        "settings": [{"key": k, "first": a, "second": b} for k, a, b in found.changed],
        **({} if found.metric.name == "mIoU" else {"metric": _metric_fields(found)}),
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


def _metric_fields(found: Comparison) -> dict[str, Any]:
    """Return the change of the asked metric as JSON data."""
    first, second, change = (None if np.isnan(n) else float(n) for n in (*found.values, found.change.value))
    interval, stated = found.change.interval, found.similarity
    return {
        "name": found.metric.name, "rule": found.metric.rule, "first": first, "second": second, "change": change,
        "interval": None if interval is None else list(interval[:2]),
        **({"no_interval": found.change.why} if interval is None else {}),
        **({"similarity": stated.name, "similarity_sha256": stated.sha256} if stated else {}),
    }  # fmt: skip


def _metric_table(result: Mapping[str, Any]) -> Table:
    title = [f"{plain(result['name'])}: {result['rule']}"]
    if "similarity" in result:
        title.append(f"similarity {plain(result['similarity'])}, sha256 {result['similarity_sha256'][:12]}")
    if "no_interval" in result:
        title.append(f"no interval: {result['no_interval']}")
    table = Table(title="\n".join(title), title_justify="left")
    for name in ("first", "second", "change", "95 % from", "to"):
        table.add_column(name, justify="right")
    low, high = result["interval"] or (None, None)
    values = [percent(result["first"]), percent(result["second"]), *map(_signed, (result["change"], low, high))]
    table.add_row(*values)
    return table


def _signed(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:+.2f}"


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
    other = [_metric_table(result["metric"])] if "metric" in result else []
    return [*other, head, *([settings] if result["settings"] else []), *([classes] if changed else []), moved]
