"""The loop over images: read, label, count, write to the ledger; one loop for datasets with the same images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ovbench.data.dataset import Dataset, Sample
from ovbench.data.decode import DecodedImage, FileIdentity
from ovbench.evaluation.identity import identity_of, region_maps
from ovbench.evaluation.ledger import Entry, LedgerWriter
from ovbench.inference.batching import Prediction
from ovbench.inference.pipeline import Pipeline
from ovbench.methods.method_errors import MethodError, blamed
from ovbench.metrics.boundary import count_boundary
from ovbench.metrics.calibration import count_calibration
from ovbench.metrics.confusion import count_pixels
from ovbench.metrics.extra_counts import ExtraCounts
from ovbench.metrics.segment_size import count_by_size
from ovbench.utils.errors import ImageError, InputError, OvbenchError
from ovbench.utils.provenance import driver
from ovbench.utils.read_ahead import WriteBehind, read_ahead

READ_AHEAD = 3  # images that are read, with their regions, while another image is labelled
READERS = 8  # threads that read for a GPU, or if images share batches
UNWRITTEN = 2  # images that are labelled but not yet in the ledger, at most


class LabelledSample(NamedTuple):
    """An image with its labels.

    Attributes:
        sample: The image.
        predicted: uint16 (H, W).
        best: The most probable class of each pixel, int64 (H, W), and its probability, float32 (H, W); None unless
            a target needs it.
    """

    sample: Sample
    predicted: np.ndarray
    best: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def confidence(self) -> np.ndarray | None:
        """Return the probability of the most probable class, float32 (H, W) in 0..1, None if it is not known."""
        return None if self.best is None else self.best[1].clip(0, 1)


class Target(NamedTuple):
    """A dataset of the loop and its ledger.

    Attributes:
        dataset: The images and labels.
        ledger: Where counts are written.
        due: Ids of the images to process.
        seen: Called with number, sample, labels and confidence of each labelled image.
        counted: Ids of images that are already counted and only needed for ``seen``.
        run: Description of this run in the ledger.
        distractors: Number of queries without a class; their labels are the ones beyond the last class.
        metrics: Names of other counts than those of pixels.
        confident: Whether ``seen`` gets the confidence, float32 (H, W); otherwise it may be None.
    """

    dataset: Dataset
    ledger: LedgerWriter
    due: frozenset[str]
    seen: Callable[[int, Sample, np.ndarray, np.ndarray | None], None]
    counted: frozenset[str] = frozenset()
    run: dict[str, Any] | None = None
    distractors: int = 0
    metrics: tuple[str, ...] = ()
    confident: bool = False

    @property
    def needs_confidence(self) -> bool:
        """Return whether an image without confidence has failed."""
        return self.confident or "calibration" in self.metrics


class LoadedImage(NamedTuple):
    """An image that is ready to be labelled.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        regions: int32 (H, W), or None.
        samples: For each target the sample, an error, or None if the image is not due.
        seconds: Time of each stage.
        region_file: The file of the region map, if it was read from one.
        resized: uint8 (h, w, 3), the image at the size of the protocol; None for pipelines that read images themselves.
        best: For each vocabulary the most probable class and its probability, in the order of labelling.
    """

    image: np.ndarray
    regions: np.ndarray | None
    samples: list[Sample | InputError | None]
    seconds: dict[str, float]
    region_file: FileIdentity | None = None
    resized: np.ndarray | None = None
    best: list[tuple[np.ndarray, np.ndarray]] | None = None

    def note(self, name: str, value: Any) -> None:
        """Keep the most probable classes."""
        if name == "best_class" and self.best is not None:
            self.best.append((value.label.cpu().numpy(), value.probability.float().cpu().numpy()))


def evaluate(
    pipeline: Pipeline,
    targets: Sequence[Target],
    indices: Sequence[int],
    *,
    batch: int = 0,
    advance: Callable[[], object] = lambda: None,
    fail_fast: bool = False,
) -> None:
    """Label images in order; another thread waits for their labels, counts and writes them, also in order.

    At most `UNWRITTEN` images are labelled and not yet written; a process that is killed loses these.

    An image that cannot be read, whose label does not fit the dataset, or for which the method fails, is recorded as
    failed, and the run continues.

    Args:
        pipeline: The method, with one vocabulary per target.
        targets: Datasets with the same images.
        indices: Numbers of the images.
        batch: Number of windows of several images in a batch; 0: images are labelled one by one.
        advance: Called after each image.
        fail_fast: Stop at the first failed image.

    Raises:
        ImageError: If an image failed, with ``fail_fast``.
    """
    if (maps := getattr(pipeline, "region_maps", None)) is not None:
        items = targets[0].dataset.items
        maps.expect({item.id: item.image_path for item in items}, [items[index].id for index in indices])
    if any(target.needs_confidence for target in targets):
        pipeline.predictor.maps.confident = True
    images = _read_ahead(pipeline, targets, indices, batch)
    with WriteBehind(UNWRITTEN) as behind:
        for read, prediction in _predictions(pipeline, images, batch):
            behind.call(_add_image, pipeline, targets, read, prediction, fail_fast)
            advance()


def _add_image(
    pipeline: Pipeline, targets: Sequence[Target], read: LoadedImage | None, prediction: Prediction, fail_fast: bool
) -> None:  # fmt: skip
    """Wait for the labels of an image, and add it to the ledgers."""
    labels, seconds = prediction.labels, prediction.seconds
    if read is not None:
        seconds = {**read.seconds, **seconds, "label": sum(seconds.values())}
    for target, result in zip(targets, _results(pipeline, targets, read, labels), strict=True):
        image = target.dataset.items[prediction.number].id
        if image not in target.due:
            continue
        if fail_fast and isinstance(result, OvbenchError):
            where = ", ".join(filter(None, (image, result.where)))
            raise ImageError(result.what, where=where, fix=result.fix)
        _add_entry(target, prediction.number, result, seconds, read.region_file if read else None)


def _results(
    pipeline: Pipeline, targets: Sequence[Target], read: LoadedImage | None, labels: list[np.ndarray] | OvbenchError
) -> list[Any]:
    """Return for each target the image with its labels, or an error, or None if the image is not due."""
    if read is None or isinstance(labels, OvbenchError):
        return [labels] * len(targets)
    best: list[Any] = list(read.best or [])[-len(targets) :]  # earlier ones are of attempts that lacked memory
    best = best or [None] * len(targets)
    return [
        _labelled(pipeline, sample, predicted, target, sure) if isinstance(sample, Sample) else sample
        for target, sample, predicted, sure in zip(targets, read.samples, labels, best, strict=True)
    ]


def _predictions(
    pipeline: Pipeline, reads: Iterator[tuple[int, Future[LoadedImage]]], batch: int
) -> Iterator[tuple[LoadedImage | None, Prediction]]:
    """Yield every image when it is finished; an image that cannot be read is yielded immediately."""
    batcher = pipeline.predictor.batcher(batch)
    confident = getattr(getattr(pipeline.predictor, "maps", None), "confident", False)
    held: dict[int, LoadedImage] = {}
    for index, future in reads:
        try:
            held[index] = read = future.result()
        except (InputError, MethodError) as error:
            yield None, Prediction(index, error, {})
            continue
        more: dict[str, Any] = {"note": read.note} if confident else {}
        if read.resized is not None:
            more["resized"] = read.resized
        for result in batcher.add(index, read.image, read.regions, **more):
            yield held.pop(result.number), result
    for result in batcher.flush():
        yield held.pop(result.number), result


def _labelled(
    pipeline: Pipeline, sample: Sample, predicted: np.ndarray, target: Target,
    best: tuple[np.ndarray, np.ndarray] | None,
) -> LabelledSample | MethodError:  # fmt: skip
    """Return the image with its labels, or an error if shape or range of the labels does not fit the dataset."""
    name, classes = pipeline.cell.method, len(target.dataset.card.classes) + target.distractors
    if predicted.shape != sample.label.shape:
        return MethodError(f"{name} returned labels of shape {predicted.shape}, expected {sample.label.shape}")
    if predicted.max(initial=0) >= classes:
        return MethodError(f"{name} returned the label {predicted.max()}, expected 0 to {classes - 1}")
    if best is not None and not (best[1].min(initial=0) >= -1e-5 and best[1].max(initial=0) <= 1 + 1e-5):
        if not target.needs_confidence:
            return LabelledSample(sample, predicted)
        return MethodError(f"{name} has class probabilities that are not between 0 and 1, so no confidence")
    return LabelledSample(sample, predicted, best)


def _regions(pipeline: Pipeline, image: np.ndarray, path: Path) -> np.ndarray | None:
    """Return the region map of an image; after an exception of the region source the image has failed."""
    try:
        with blamed(getattr(pipeline.region_maps, "source", pipeline)):
            return pipeline.regions(image, path)
    except MethodError as error:
        if not isinstance(error.__cause__, torch.cuda.OutOfMemoryError):
            raise
        what = "the device has too little memory for networks and region source together"
        raise MethodError(what, fix="make the region maps first: ovbench masks build") from error


def _add_entry(
    target: Target, index: int, result: LabelledSample | OvbenchError, seconds: dict[str, float],
    region_file: FileIdentity | None,
) -> None:  # fmt: skip
    image_id = target.dataset.items[index].id
    if isinstance(result, OvbenchError):
        if image_id not in target.counted:
            target.ledger.add(Entry(image_id, None, str(result), {}, index, run=target.run))
        return
    if image_id not in target.counted:
        start = time.perf_counter()
        sample = result.sample
        counts = count_pixels(result.predicted, sample.label, len(target.dataset.card.classes))
        files = {"image": sample.image_file, "label": sample.label_file, "regions": region_file}
        data = {name: list(file) for name, file in files.items() if file is not None}
        extra = {name: _extra_counts(name, result, len(target.dataset.card.classes)) for name in target.metrics}
        seconds = {**seconds, "count": time.perf_counter() - start}
        target.ledger.add(Entry(image_id, counts, None, seconds, index, data, target.run, extra=extra or None))
    target.seen(index, result.sample, result.predicted, result.confidence)


def _extra_counts(name: str, image: LabelledSample, classes: int) -> ExtraCounts:
    """Return the counts of a name, see `ovbench.metrics.extra_counts`."""
    label = image.sample.label
    if name == "calibration":
        assert image.best is not None and image.confidence is not None  # `_labelled`
        return count_calibration(image.best[0], image.confidence, label)
    count = {"boundary": count_boundary, "size": count_by_size}[name]
    return count(image.predicted, label, classes)


def _read_ahead(
    pipeline: Pipeline, targets: Sequence[Target], indices: Sequence[int], batch: int
) -> Iterator[tuple[int, Future[LoadedImage]]]:
    """Yield images in order, decoded ahead by threads; the measured seconds do not include idle time."""

    def read(index: int) -> LoadedImage:
        start = time.perf_counter()
        first = targets[0].dataset
        picture = first.read_image_file(index)
        samples = [_sample(target, index, picture) for target in targets]
        resized = _resized(pipeline, picture.pixels)
        middle = time.perf_counter()
        region_file = _region_file(pipeline, first.items[index].image_path)
        regions = _regions(pipeline, picture.pixels, first.items[index].image_path)
        seconds = {"read": middle - start, "regions": time.perf_counter() - middle}
        return LoadedImage(picture.pixels, regions, samples, seconds, region_file, resized, [])

    several = batch > 0 or driver(getattr(pipeline, "device", "cpu")) is not None
    threads = min(READERS, os.cpu_count() or 1) if several else 2
    return read_ahead(read, indices, ahead=max(READ_AHEAD, batch, threads + 1 if several else 0), threads=threads)


def _resized(pipeline: Pipeline, image: np.ndarray) -> np.ndarray | None:
    """Return the image at the size of the protocol, None for a pipeline that does not resize."""
    if not hasattr(pipeline.predictor, "resize"):
        return None
    with blamed(pipeline.method):  # as in the thread that labels
        return pipeline.predictor.resize(image)


def _region_file(pipeline: Pipeline, image_path: Path) -> FileIdentity | None:
    """Return the identity of the file of the image's region map, taken before it is read."""
    maps = region_maps(pipeline)
    path = None if maps is None else maps.file(image_path)
    try:
        return None if path is None else identity_of(path)
    except OSError:
        return None  # reading the map reports the error


def _sample(target: Target, index: int, image: DecodedImage) -> Sample | InputError | None:
    """Return the image with the target's label; a label that does not fit fails for this target only."""
    if target.dataset.items[index].id not in target.due:
        return None
    try:
        return target.dataset.with_image(index, image)
    except InputError as error:
        return error
