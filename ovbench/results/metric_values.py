"""Find the value of any named metric in records: stored, from the ledger beside the record, or from its counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ovbench.evaluation.scored import COUNTS
from ovbench.metrics.confusion import ClassPixels
from ovbench.metrics.named import METRICS, PIXELS, Metric, class_list
from ovbench.utils.errors import InputError, UsageError

if TYPE_CHECKING:
    from ovbench.metrics.similarity import Similarity
    from ovbench.results.record_files import RecordFile


def bounds_of(record: dict[str, Any], name: str) -> list[float] | None:
    """Return the 95 % interval of a metric in a record, None if there is none."""
    metrics = record["metrics"]
    return metrics.get("mIoU_interval") if name == "mIoU" else metrics.get("intervals", {}).get(name)


def with_metric(records: Sequence[RecordFile], metric: Metric, similarity: str | None = None) -> list[RecordFile]:
    """Return the records with a metric among their ``metrics``; those that cannot have it are named and left out.

    Args:
        records: The records.
        metric: The metric.
        similarity: Name or file of the similarity of classes, for metrics that use it.

    Raises:
        UsageError: If the metric needs a similarity and none is named, or the reverse.
        InputError: If no record can have the metric.
    """
    check_similarity(metric, similarity)
    found = []
    for one in records:
        try:
            found.append(one._replace(record=_with(one, metric, similarity)))
        except InputError as error:
            logging.getLogger("ovbench").warning("without %s: %s: %s", metric.name, one.path, error.what)
    if records and not found:
        raise InputError(f"no record with {metric.name}", fix="see docs/metrics.md for what it needs")
    return found


def check_similarity(metric: Metric, similarity: str | None) -> None:
    """Raise UsageError if a metric needs the similarity of classes and none is named, or needs none and one is."""
    if metric.similar and similarity is None:
        raise UsageError(
            f"{metric.name} needs the similarity of classes", fix="give --similarity NAME, FILE or text:TOWER"
        )
    if similarity is not None and not metric.similar:
        raise UsageError(
            f"{metric.name} uses no similarity of classes",
            where="--similarity",
            fix="choose --metric Open_mIoU or SG_IoU",
        )


def _with(found: RecordFile, metric: Metric, similarity: str | None) -> dict[str, Any]:
    record, name = found.record, metric.name
    metrics = record["metrics"]
    if name in metrics and (name in METRICS) and (name == "mIoU" or name in metrics.get("intervals", {})):
        return record
    classes = class_list(record["dataset"], similarity_of(record, metric, similarity))
    if why := metric.why_not(classes):
        raise InputError(why)
    if metric.counts != PIXELS and metric.counts not in record["counts"]:
        raise InputError(f"it was run without --metrics {metric.counts}")
    try:
        from ovbench.metrics.influence import measure  # scipy, whose import takes as long as the rest of the command
        from ovbench.results.compare import counted_images, load_run

        run = load_run(found.path)
        estimate = measure(metric, counted_images(run, list(run.counts)), classes)
        value, interval = estimate.value, estimate.interval
    except InputError:
        if metric.similar:
            raise
        sums = ClassPixels(*(np.array(record["counts"][column], np.int64) for column in COUNTS))
        value, interval = metric.total(sums, classes), None  # without the ledger there is no interval
    bounds = None if interval is None else list(interval[:2])
    intervals = {**metrics.get("intervals", {}), name: bounds}
    stated = {"similarity": classes.similarity.stated} if classes.similarity else {}
    own = {name: None if np.isnan(value) else value, "intervals": intervals, **stated}
    return {**record, "metrics": {**metrics, **own}}


def similarity_of(record: dict[str, Any], metric: Metric, name: str | None) -> Similarity | None:
    """Return the similarity of the classes of a record, None if the metric needs none.

    Raises:
        UsageError: If the metric needs one and none is named, or the reverse.
        InputError: If its file does not fit, or its weights are missing.
    """
    check_similarity(metric, name)
    if not metric.similar or name is None:
        return None
    from ovbench.metrics.similarity import read_similarity  # scipy, as above
    from ovbench.results.text_similarity import PREFIX, text_similarity

    classes = record["dataset"]["classes"]
    return text_similarity(name, tuple(classes)) if name.startswith(PREFIX) else read_similarity(name, classes)


def similarity_notes(records: Sequence[RecordFile]) -> list[str]:
    """Return which similarity the metric of each benchmark has, from records of `with_metric`."""
    stated = ((one.record["cell"]["dataset"], one.record["metrics"].get("similarity")) for one in records)
    return list(dict.fromkeys(f"{dataset}: {text}" for dataset, text in stated if text))
