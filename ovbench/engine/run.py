"""The loop over a benchmark: read, label, count, note in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ovbench.data.read import Dataset, Sample
from ovbench.engine.ledger import Entry, LedgerPart
from ovbench.errors import InputError, ScoreError
from ovbench.metrics.counts import count_pixels
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
    seconds: dict[str, float]


def evaluate(
    segmentor: OpenVocabSegmentor,
    dataset: Dataset,
    indices: Sequence[int],
    ledger: LedgerPart,
    *,
    seen: Callable[[int, Labelled], None] = lambda index, labelled: None,
    advance: Callable[[], object] = lambda: None,
    fail_fast: bool = False,
) -> None:
    """Label and count the images ``indices`` in that order; each is in the ledger before the next begins.

    ``seen`` receives every labelled image, ``advance`` is called after each image. An image that cannot be read, whose
    label does not fit the benchmark, or for which the method gives no numbers, is noted as failed and the run goes on;
    with ``fail_fast`` the error ends the run.
    """
    classes = len(dataset.card.classes)
    for index, read in _read_ahead(segmentor, dataset, indices):
        image_id = dataset.items[index].id
        try:
            ready = read.result()
            predicted, seconds = _label(segmentor, ready)
        except (InputError, ScoreError) as error:
            if fail_fast:
                raise
            ledger.add(Entry(image_id, None, str(error), {}))
            advance()
            continue
        start = time.perf_counter()
        counts = count_pixels(predicted, ready.sample.label, classes)
        seconds["count"] = time.perf_counter() - start
        ledger.add(Entry(image_id, counts, None, ready.seconds | seconds))
        seen(index, Labelled(ready.sample, predicted))
        advance()


def _label(segmentor: OpenVocabSegmentor, ready: Read) -> tuple[np.ndarray, dict[str, float]]:
    labeller = segmentor.labeller
    labeller.seconds = {}
    start = time.perf_counter()
    (predicted,) = labeller.label(ready.sample.image, ready.regions)
    return predicted, labeller.seconds | {"label": time.perf_counter() - start}


def _read_ahead(
    segmentor: OpenVocabSegmentor, dataset: Dataset, indices: Sequence[int]
) -> Iterator[tuple[int, Future[Read]]]:
    """Images in order, decoded by threads ahead of their use; the seconds are of the work, not of the wait for it."""

    def read(index: int) -> Read:
        start = time.perf_counter()
        sample = dataset.read(index)
        middle = time.perf_counter()
        regions = segmentor.regions(sample.image, dataset.items[index].image_path)
        return Read(sample, regions, {"read": middle - start, "regions": time.perf_counter() - middle})

    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: list[Future[Read]] = []
        try:
            for position, index in enumerate(indices):
                while len(waiting) < min(READ_AHEAD, len(indices) - position):
                    waiting.append(pool.submit(read, indices[position + len(waiting)]))
                yield index, waiting.pop(0)
        finally:
            for future in waiting:
                future.cancel()
