"""The loop over a benchmark: read, label, count, record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

import numpy as np

from ovbench import env
from ovbench.data.read import Dataset, Sample
from ovbench.errors import InputError
from ovbench.metrics.counts import Confusion, count_pixels
from ovbench.results.record import SCHEMA, score_fields
from ovbench.segmentor import OpenVocabSegmentor

READ_AHEAD = 3  # images decoded and segmented into regions while another is labelled


class Labelled(NamedTuple):
    """An image that has been through the method: ``predicted`` u16[h, w]."""

    sample: Sample
    predicted: np.ndarray


class Read(NamedTuple):
    """An image ready to be labelled, with the seconds that reading and its region map took."""

    sample: Sample
    regions: np.ndarray | None
    read_s: float
    regions_s: float


@dataclass
class Evaluation:
    """What a run over a dataset produced."""

    confusion: Confusion
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    started: str = ""


def evaluate(
    segmentor: OpenVocabSegmentor,
    dataset: Dataset,
    *,
    limit: int | None = None,
    seen: Callable[[Labelled], None] = lambda labelled: None,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Label and count the first ``limit`` images (all by default), in order.

    ``seen`` receives every labelled image, ``advance`` is called after each image. An image that cannot be read, or
    whose label does not fit the benchmark, is noted as failed and the run goes on.
    """
    result = Evaluation(
        Confusion(len(dataset.card.classes)),
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    start = time.perf_counter()
    for image_id, read in _read_ahead(segmentor, dataset, limit):
        try:
            ready = read.result()
        except InputError as error:
            result.failed[image_id] = str(error)
            advance()
            continue
        sample = ready.sample
        predicted = segmentor.labeller.label(sample.image, ready.regions)[0]
        counting = time.perf_counter()
        result.confusion.add(count_pixels(predicted, sample.label, len(dataset.card.classes)))
        _add(result.seconds, count=time.perf_counter() - counting, read=ready.read_s, regions=ready.regions_s)
        seen(Labelled(sample, predicted))
        advance()
    _add(result.seconds, **segmentor.labeller.seconds)
    result.seconds["total"] = time.perf_counter() - start
    return result


def _add(seconds: dict[str, float], **stages: float) -> None:
    for stage, spent in stages.items():
        seconds[stage] = seconds.get(stage, 0.0) + spent


def _read_ahead(
    segmentor: OpenVocabSegmentor, dataset: Dataset, limit: int | None
) -> Iterator[tuple[str, Future[Read]]]:
    """Images in order, decoded by threads ahead of their use; what a stage took is in the result, not in the wait."""
    count = len(dataset) if limit is None else min(limit, len(dataset))

    def read(index: int) -> Read:
        start = time.perf_counter()
        sample = dataset.read(index)
        middle = time.perf_counter()
        regions = segmentor.regions(sample.image)
        return Read(sample, regions, middle - start, time.perf_counter() - middle)

    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: list[Future[Read]] = []
        try:
            for index in range(count):
                while len(waiting) < min(READ_AHEAD, count - index):
                    waiting.append(pool.submit(read, index + len(waiting)))
                yield dataset.items[index].id, waiting.pop(0)
        finally:
            for future in waiting:
                future.cancel()


def make_record(
    segmentor: OpenVocabSegmentor, dataset: Dataset, result: Evaluation, *, limit: int | None = None
) -> dict[str, Any]:
    """The record of a run, see `ovbench.results.record`."""
    card, cell = dataset.card, segmentor.cell
    ids = [item.id for item in dataset.items][:limit]
    scored = [image_id for image_id in ids if image_id not in result.failed]
    device = str(segmentor.labeller.device)
    return {
        "schema": SCHEMA,
        "status": "partial" if result.failed else "complete",
        "cell": cell.as_dict(),
        "settings_sha256": cell.digest(),
        "dataset": {
            "title": card.title,
            "split": card.split,
            "images": len(scored),
            "split_images": len(dataset),
            "ids_sha256": hashlib.sha256("\n".join(scored).encode()).hexdigest(),
            "layout": dataset.layout,
            "label_rule": dataset.label_rule,
            "classes": list(card.classes),
            "background": card.background,
        },
        "weights": {kind: {"name": w.spec, "sha256": w.sha256} for kind, w in segmentor.loaded.items()},
        "versions": env.versions(),
        "git": env.git_revision(),
        "device": env.device_name(device),
        **score_fields(result.confusion, card.classes),
        "failed": result.failed,
        "timing": {
            "started": result.started,
            "seconds": {stage: round(spent, 4) for stage, spent in sorted(result.seconds.items())},
            "peak_memory": env.peak_memory(device),
        },
    }


