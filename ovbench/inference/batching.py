"""Images through a predictor: one after another, or with the windows of several images in batches of fixed size.

In shared batches, every forward pass has the same shape: the last batch is padded, and the features of a window do not
depend on the other windows of its batch. So an image gets the same labels whichever images are before or beside it, to
the last bit if the device computes a row of a batch equally at every position; `ovbench check` tests this.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovbench.inference.predictor import Predictor
from ovbench.inference.sliding_window import WindowMean
from ovbench.inference.windowed_image import Window, gather, region_slots
from ovbench.methods.base import WindowedImage
from ovbench.methods.blame import blame
from ovbench.utils.errors import InputError, ScoreError


class Prediction(NamedTuple):
    """Hold the result of one image.

    Attributes:
        number: the number given to ``add``.
        labels: uint16 (H, W), one map per vocabulary, or the error.
        seconds: time of each stage.
    """

    number: int
    labels: list[np.ndarray] | InputError | ScoreError
    seconds: dict[str, float]


def _prediction(
    number: int, seconds: dict[str, float], method: Any, label: Callable[[], list[np.ndarray]]
) -> Prediction:
    try:
        return Prediction(number, label(), seconds)
    except (InputError, ScoreError) as error:
        return Prediction(number, error, seconds)
    except (Exception, SystemExit) as error:  # an error in the method's code fails the image, not the run
        return Prediction(number, blame(error, method), seconds)


class ImageByImage:
    """Label each image as soon as it is added."""

    def __init__(self, predictor: Any):
        self.predictor = predictor

    def add(self, number: int, image: np.ndarray, regions: np.ndarray | None = None) -> Iterator[Prediction]:
        """Label an image.

        Args:
            number: any number, returned with the prediction.
            image: uint8 (H, W, 3), RGB.
            regions: int32 (H, W), the region map.

        Yields:
            The predictions that are finished.
        """
        self.predictor.seconds = seconds = {}
        yield _prediction(number, seconds, self.predictor.method, lambda: self.predictor.label(image, regions))

    def flush(self) -> Iterator[Prediction]:
        """Return the predictions of all pending images; here there are none."""
        return iter(())


class BatchKey(NamedTuple):
    """Hold what windows must have in common, beside their size, to share a batch; see `Batch`."""

    pad_region: int
    region_slots: int | None


class PendingImage:
    """Hold an image with windows that are not encoded yet.

    Features arrive in window order, and ``windows_at_once`` of them are scored together, as if the image were alone.
    """

    def __init__(self, number: int, prepared: WindowedImage, key: BatchKey, predictor: Predictor):
        self.number, self.prepared, self.key = number, prepared, key
        self.seconds, self.at_once = predictor.seconds, predictor.windows_at_once
        self.means: list[WindowMean] = predictor.means(prepared)
        self.features: list[Any] = []
        self.scored = 0


class QueuedWindow(NamedTuple):
    """A window that waits for its batch."""

    owner: PendingImage
    window: Window


class WindowBatcher:
    """Label images as they fill batches of ``size`` windows; at most ``size`` images are pending.

    Only windows of the protocol's full size share batches. A smaller image, or one without windows, would find few
    others of its shape and is labelled alone.
    """

    def __init__(self, predictor: Predictor, size: int):
        self.predictor, self.asked, self.size = predictor, size, size
        self.pending: dict[int, PendingImage] = {}  # in the order of `add`
        self.queues: dict[BatchKey, deque[QueuedWindow]] = {}

    def add(self, number: int, image: np.ndarray, regions: np.ndarray | None = None) -> Iterator[Prediction]:
        """Add an image.

        Args:
            number: any number, returned with the prediction.
            image: uint8 (H, W, 3), RGB.
            regions: int32 (H, W), the region map.

        Yields:
            The predictions that are finished.
        """
        self.predictor.seconds = seconds = {}
        try:
            prepared = self.predictor.with_context(self.predictor.prepare(image, regions))
        except (InputError, ScoreError) as error:
            yield Prediction(number, error, seconds)
            return
        except (Exception, SystemExit) as error:  # also a shape that cannot be resized
            yield Prediction(number, blame(error, self.predictor.method), seconds)
            return
        if prepared.context is not None or prepared.boxes[0].size != (self.predictor.protocol.crop,) * 2:
            yield _prediction(number, seconds, self.predictor.method, lambda: self.predictor.label_prepared(prepared))
            return
        slots = region_slots(regions, prepared.size, prepared.boxes)
        owner = self.pending[number] = PendingImage(
            number, prepared, BatchKey(prepared.pad_region, slots), self.predictor
        )
        queue = self.queues.setdefault(owner.key, deque())
        queue.extend(QueuedWindow(owner, Window(prepared, box)) for box in prepared.boxes)
        while len(queue) >= self.size:
            yield from self._run(owner.key)
        while len(self.pending) > self.asked:
            yield from self._run(self._oldest_key())

    def flush(self) -> Iterator[Prediction]:
        """Yield the predictions of all pending images."""
        while self.pending:
            yield from self._run(self._oldest_key())

    def _oldest_key(self) -> BatchKey:
        return next(iter(self.pending.values())).key

    def _run(self, key: BatchKey) -> Iterator[Prediction]:
        """Run one batch from the front of a queue."""
        queue = self.queues[key]
        members = [queue.popleft() for _ in range(min(self.size, len(queue)))]
        members = [queued for queued in members if queued.owner.number in self.pending]  # the other images have failed
        for queued, features in self._encoded(members) if members else ():
            if queued.owner.number not in self.pending:
                continue
            self.predictor.seconds = queued.owner.seconds
            take = partial(self._take, queued.owner, features)
            prediction = _prediction(queued.owner.number, queued.owner.seconds, self.predictor.method, take)
            if prediction.labels is not None:
                del self.pending[queued.owner.number]
                yield prediction

    def _encoded(self, members: list[QueuedWindow]) -> list[tuple[QueuedWindow, Any]]:
        """Return each window with its features, or with the error of its image."""
        start, found = time.perf_counter(), None
        try:
            found = self._encode(members)
        except torch.cuda.OutOfMemoryError:
            pass  # retried below, where the exception no longer holds the memory
        except (InputError, ScoreError) as error:
            found = error
        except (Exception, SystemExit) as error:
            found = blame(error, self.predictor.method)
        if found is None:
            return self._in_halves(members)
        if isinstance(found, Exception):
            return self._image_by_image(members, found)
        seconds = (time.perf_counter() - start) / len(members)
        for queued in members:
            queued.owner.seconds["encode"] = queued.owner.seconds.get("encode", 0.0) + seconds
        return [(queued, _row(found, number)) for number, queued in enumerate(members)]

    def _encode(self, members: list[QueuedWindow]) -> Any:
        windows = [queued.window for queued in members]
        padded = windows + windows[-1:] * (self.size - len(windows))
        return self.predictor.encode(gather(padded, slots=members[0].owner.key.region_slots))

    def _in_halves(self, members: list[QueuedWindow]) -> list[tuple[QueuedWindow, Any]]:
        """Encode with half the batch size, because memory ran out."""
        if self.size == 1:
            error = ScoreError("the device has too little memory for one window", fix="choose another --device")
            return [(queued, error) for queued in members]
        if self.size == self.asked:
            print(f"out of memory on {self.predictor.device}: continuing with smaller batches", file=sys.stderr)
        self.size //= 2
        pairs: list[tuple[QueuedWindow, Any]] = []
        while len(pairs) < len(members):
            pairs += self._encoded(members[len(pairs) : len(pairs) + self.size])
        return pairs

    def _image_by_image(self, members: list[QueuedWindow], error: Exception) -> list[tuple[QueuedWindow, Any]]:
        """Encode the windows of each image separately, to find the image that the method refuses."""
        owners = list(dict.fromkeys(queued.owner for queued in members))
        if len(owners) == 1:
            return [(queued, error) for queued in members]
        by_image = [[queued for queued in members if queued.owner is owner] for owner in owners]
        return [pair for windows in by_image for pair in self._encoded(windows)]

    def _take(self, owner: PendingImage, features: Any) -> list[np.ndarray] | None:
        """Add the features of an image's next window; return the labels after the last one, otherwise None."""
        if isinstance(features, Exception):
            raise features
        owner.features.append(features)
        boxes = owner.prepared.boxes[owner.scored : owner.scored + owner.at_once]
        if len(owner.features) < len(boxes):
            return None
        joined, owner.features, scored = _joined(owner.features), [], False
        try:
            self.predictor.score(owner.prepared, owner.means, joined, boxes)
            scored = True
        except torch.cuda.OutOfMemoryError:
            del joined
        if not scored:
            return self.predictor.label_prepared(owner.prepared)  # alone, with fewer windows at once
        owner.scored += len(boxes)
        return self.predictor.finish(owner.prepared, owner.means) if owner.scored == len(owner.prepared.boxes) else None


def _row(features: Any, number: int) -> Any:
    """Return the features of one window, with the window axis."""
    return _each(features, lambda tensors: tensors[0][number : number + 1], [features])


def _joined(features: list[Any]) -> Any:
    """Concatenate the features of windows; a copy, so that the memory layout is always that of one batch."""
    return _each(features[0], torch.cat, features)


def _each(first: Any, make: Callable[[list[Tensor]], Tensor], features: list[Any]) -> Any:
    """Apply ``make`` to the tensors of features of the same structure; other values are taken from the first."""
    if isinstance(first, Tensor):
        return make(features)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_each(field, make, fields) for field, *fields in zip(first, *features, strict=True)))
    return first
