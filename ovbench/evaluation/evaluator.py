"""The loop over images: read, label, count, note in the ledger. Benchmarks that share images share one pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovbench.data.dataset import Dataset, Sample
from ovbench.data.decode import FileIdentity, Picture
from ovbench.evaluation.identity import identity_of, region_maps
from ovbench.evaluation.ledger import Entry, LedgerPart
from ovbench.inference.batching import ImageByImage, Prediction, WindowBatcher
from ovbench.inference.pipeline import Pipeline
from ovbench.methods.blame import MethodError, blamed
from ovbench.metrics.confusion import count_pixels
from ovbench.utils.errors import ImageError, InputError, OvbenchError

READ_AHEAD = 3  # images decoded and segmented into regions while another is labelled
READERS = 8  # threads that do so where images share batches


class Labelled(NamedTuple):
    """An image that has been through the method: ``predicted`` u16[h, w]."""

    sample: Sample
    predicted: np.ndarray


class Target(NamedTuple):
    """A benchmark of the pass: its labels, its ledger, the image ids that it still lacks, who else wants to see a
    labelled image (called with its number in the split), those that are counted already and only to be seen, and what
    the ledger says of this run."""

    dataset: Dataset
    ledger: LedgerPart
    due: frozenset[str]
    seen: Callable[[int, Sample, np.ndarray], None]
    counted: frozenset[str] = frozenset()
    run: dict[str, Any] | None = None


class Read(NamedTuple):
    """An image ready to be labelled; per target its sample, an error, or None where it is not due."""

    image: np.ndarray
    regions: np.ndarray | None
    samples: list[Sample | InputError | None]
    seconds: dict[str, float]
    region_file: FileIdentity | None = None


def evaluate(
    pipeline: Pipeline,
    targets: Sequence[Target],
    indices: Sequence[int],
    *,
    batch: int = 0,
    advance: Callable[[], object] = lambda: None,
    fail_fast: bool = False,
) -> None:
    """Label and count the images ``indices``, read in that order; each is in the ledgers as soon as it is labelled.

    The targets hold the same images and belong to the pipeline's vocabularies, one each. An image that cannot be read,
    whose label does not fit the benchmark, or for which the method gives no numbers is noted as failed and the run
    goes on; with ``fail_fast`` the first one ends the run, by an ImageError. ``batch``: windows of several images share
    batches of so many (0: images are labelled one by one). ``advance`` is called after each image.
    """
    if (maps := getattr(pipeline, "region_maps", None)) is not None:
        items = targets[0].dataset.items
        maps.expect({item.id: item.image_path for item in items}, [items[index].id for index in indices])
    ahead = max(READ_AHEAD, batch)
    for read, (index, labels, seconds) in _predictions(pipeline, _read_ahead(pipeline, targets, indices, ahead), batch):
        if read is None or isinstance(labels, OvbenchError):
            outcomes = [labels] * len(targets)
        else:
            outcomes = [
                _labelled(pipeline, sample, predicted, target) if isinstance(sample, Sample) else sample
                for target, sample, predicted in zip(targets, read.samples, labels, strict=True)
            ]
        for target, outcome in zip(targets, outcomes, strict=True):
            if target.dataset.items[index].id not in target.due:
                continue
            if fail_fast and isinstance(outcome, OvbenchError):
                where = ", ".join(filter(None, (target.dataset.items[index].id, outcome.where)))
                raise ImageError(outcome.what, where=where, fix=outcome.fix)
            _note(target, index, outcome, seconds, read.region_file if read else None)
        advance()


def _predictions(
    pipeline: Pipeline, reads: Iterator[tuple[int, Future[Read]]], batch: int
) -> Iterator[tuple[Read | None, Prediction]]:
    """Every image as it finishes; those that cannot be read at once."""
    batcher = WindowBatcher(pipeline.predictor, batch) if batch else ImageByImage(pipeline.predictor)
    held: dict[int, Read] = {}
    for index, future in reads:
        try:
            held[index] = read = future.result()
        except (InputError, MethodError) as error:
            yield None, Prediction(index, error, {})
            continue
        for outcome in batcher.add(index, read.image, read.regions):
            yield _timed(held, outcome)
    for outcome in batcher.flush():
        yield _timed(held, outcome)


def _labelled(
    pipeline: Pipeline, sample: Sample, predicted: np.ndarray, target: Target
) -> Labelled | MethodError:
    """The image with its labels, unless these are no classes of the benchmark or of another size."""
    name, classes = pipeline.cell.method, len(target.dataset.card.classes)
    if predicted.shape != sample.label.shape:
        return MethodError(f"{name} gave labels of shape {predicted.shape}, expected {sample.label.shape}")
    if predicted.max(initial=0) >= classes:
        return MethodError(f"{name} gave the label {predicted.max()}, expected 0 to {classes - 1}")
    return Labelled(sample, predicted)


def _regions(pipeline: Pipeline, image: np.ndarray, path: Path) -> np.ndarray | None:
    """The image's region map; what the region source raises fails the image."""
    with blamed(getattr(pipeline.region_maps, "source", pipeline)):
        return pipeline.regions(image, path)


def _timed(held: dict[int, Read], outcome: Prediction) -> tuple[Read, Prediction]:
    read = held.pop(outcome.number)
    seconds = {**read.seconds, **outcome.seconds, "label": sum(outcome.seconds.values())}
    return read, outcome._replace(seconds=seconds)


def _note(
    target: Target, index: int, outcome: Labelled | OvbenchError, seconds: dict[str, float],
    region_file: FileIdentity | None,
) -> None:  # fmt: skip
    image_id = target.dataset.items[index].id
    if isinstance(outcome, OvbenchError):
        if image_id not in target.counted:
            target.ledger.add(Entry(image_id, None, str(outcome), {}, index, run=target.run))
        return
    if image_id not in target.counted:
        start = time.perf_counter()
        sample = outcome.sample
        counts = count_pixels(outcome.predicted, sample.label, len(target.dataset.card.classes))
        files = {"image": sample.image_file, "label": sample.label_file, "regions": region_file}
        data = {name: list(file) for name, file in files.items() if file is not None}
        seconds = {**seconds, "count": time.perf_counter() - start}
        target.ledger.add(Entry(image_id, counts, None, seconds, index, data, target.run))
    target.seen(index, outcome.sample, outcome.predicted)


def _read_ahead(
    pipeline: Pipeline, targets: Sequence[Target], indices: Sequence[int], ahead: int
) -> Iterator[tuple[int, Future[Read]]]:
    """Images in order, decoded by threads ahead of their use; the seconds are of the work, not of the wait for it."""

    def read(index: int) -> Read:
        start = time.perf_counter()
        first = targets[0].dataset
        picture = first.read_picture(index)
        samples = [_sample(target, index, picture) for target in targets]
        middle = time.perf_counter()
        region_file = _region_file(pipeline, first.items[index].image_path)
        regions = _regions(pipeline, picture.pixels, first.items[index].image_path)
        seconds = {"read": middle - start, "regions": time.perf_counter() - middle}
        return Read(picture.pixels, regions, samples, seconds, region_file)

    with ThreadPoolExecutor(max_workers=2 if ahead == READ_AHEAD else min(READERS, os.cpu_count() or 1)) as pool:
        waiting: list[Future[Read]] = []
        try:
            for position, index in enumerate(indices):
                while len(waiting) < min(ahead, len(indices) - position):
                    waiting.append(pool.submit(read, indices[position + len(waiting)]))
                yield index, waiting.pop(0)
        finally:
            for future in waiting:
                future.cancel()


def _region_file(pipeline: Pipeline, image_path: Path) -> FileIdentity | None:
    """The file that the image's region map is read from, as it is before it is read."""
    maps = region_maps(pipeline)
    path = None if maps is None else maps.file(image_path)
    try:
        return None if path is None else identity_of(path)
    except OSError:
        return None  # reading the map says what is wrong with it


def _sample(target: Target, index: int, image: Picture) -> Sample | InputError | None:
    """The image with the target's label; a label that does not fit fails for this target only."""
    if target.dataset.items[index].id not in target.due:
        return None
    try:
        return target.dataset.with_image(index, image)
    except InputError as error:
        return error
