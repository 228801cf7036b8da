"""Run the steps of a method on images, with windows of one or of several images in a batch.

There is one path. Windows are encoded in batches. The features of an image are scored in the order of its windows, a
fixed number at a time, or all together if the method joins them. After the last window the image is finished. A single
image is a batch of its own windows. In batches with windows of several images, every forward pass has the same shape
(the last batch is padded), and the features of a window do not depend on the other windows of its batch. So the labels
of an image do not depend on other images, to the last bit if the device computes a row of a batch equally at every
position; `ovbench check` tests this.

If memory runs out, the same work is repeated in smaller steps: half of the batch in `encode`, otherwise the single
image with fewer windows, queries and pixels at once. If the steps cannot be smaller, the image fails, and the run
continues.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovbench.inference.device_labels import DeviceLabels
from ovbench.inference.precision import FEATURE_BUDGET
from ovbench.inference.steps import Merged, Steps
from ovbench.inference.windowed_image import Window, gather, region_slots
from ovbench.methods.base import Note, WindowedImage, no_note
from ovbench.methods.method_errors import blame
from ovbench.utils.errors import OvbenchError, ScoreError, warn_once
from ovbench.utils.upload import start_download


class Prediction(NamedTuple):
    """The result of one image.

    Attributes:
        number: The number given to ``add``.
        found: Label maps, perhaps still on a GPU, or the error.
        seconds: Time of each stage.
    """

    number: int
    found: DeviceLabels | list[np.ndarray] | OvbenchError
    seconds: dict[str, float]

    @property
    def labels(self) -> list[np.ndarray] | OvbenchError:
        """Return uint16 (H, W), one map per vocabulary, or the error; waits for a GPU, as part of "decide"."""
        if not isinstance(self.found, DeviceLabels):
            return self.found
        start = time.perf_counter()
        try:
            return self.found.result()
        except OvbenchError as error:
            return error
        finally:
            self.seconds["decide"] = self.seconds.get("decide", 0.0) + time.perf_counter() - start


class BatchKey(NamedTuple):
    """Properties that windows in one batch must have in common, besides their size; see `Batch`."""

    pad_region: int
    region_slots: int | None


class PendingImage:
    """An image with windows that are not scored yet.

    Attributes:
        number: The number given to ``add``.
        prepared: The image.
        key: Common properties of the windows in its batches; None: its batches have no windows of other images.
        seconds: Time of each stage.
        limits: How much was computed at once when it was added.
        at_once: Number of windows that are scored together; 0: those that were encoded together.
        means: Merged scores, one per vocabulary, None before the first window.
        features: Features of its next windows, in order.
        waiting: Number of these windows.
        on_device: bytes of these features on the device.
        scored: Number of windows that are scored.
    """

    def __init__(self, number: int, prepared: WindowedImage, key: BatchKey | None, steps: Steps):
        self.number, self.prepared, self.key = number, prepared, key
        self.seconds, self.limits = steps.seconds, steps.limits
        self.at_once = len(prepared.boxes) if steps.method.needs.join else 0 if key is None else steps.limits.windows
        self.means: list[Merged | None] = [None] * len(steps.vocabularies)
        self.features: list[Any] = []
        self.waiting = self.on_device = self.scored = 0


class QueuedWindow(NamedTuple):
    """A window in the queue of its batch."""

    owner: PendingImage
    window: Window


class Encoded(NamedTuple):
    """The features of some windows of an image, or the error of the image."""

    owner: PendingImage
    count: int
    features: Any


class WindowBatcher:
    """Labels images in batches of their windows; at most ``size`` images are pending.

    Batches have windows of several images only if the method encodes windows independently and has no context of an
    image, and only for windows of the protocol's full size, because other sizes are rare. All other images are labelled
    when they are added, each with its own batches.

    Args:
        steps: The steps of the method.
        size: Number of windows of several images in a batch; 0: each image has its own batches.
    """

    def __init__(self, steps: Steps, size: int = 0):
        self.steps, self.asked, self.size = steps, size, size
        self.shares = size > 0 and steps.method.windowwise and steps.protocol.crop > 0
        self.pending: dict[int, PendingImage] = {}  # in the order of `add`
        self.queues: dict[BatchKey, deque[QueuedWindow]] = {}

    def add(
        self, number: int, image: np.ndarray, regions: np.ndarray | None = None, note: Note = no_note,
        resized: np.ndarray | None = None,
    ) -> Iterator[Prediction]:  # fmt: skip
        """Add an image.

        Args:
            number: Any number, returned with the prediction.
            image: uint8 (H, W, 3), RGB.
            regions: int32 (H, W), the region map.
            note: Called with intermediate quantities of the image.
            resized: What `Steps.resize` has returned for the image, if it was called before.

        Yields:
            The predictions that are finished.
        """
        self.steps.seconds = {}
        owner = self._tried(number, lambda: self._pending(number, image, regions, note, resized))
        if isinstance(owner, Prediction):
            yield owner
        elif owner.key is None:
            yield self._tried(number, lambda: self._labels(owner))
        else:
            self.pending[number] = owner
            queue = self.queues.setdefault(owner.key, deque())
            queue.extend(_windows(owner))
            while len(queue) >= self.size:
                yield from self._run(owner.key)
            while len(self.pending) > self.asked:
                yield from self._run(self._oldest_key())

    def flush(self) -> Iterator[Prediction]:
        """Yield the predictions of all pending images."""
        while self.pending:
            yield from self._run(self._oldest_key())

    def label(self, prepared: WindowedImage) -> list[np.ndarray]:
        """Label a single image.

        Returns:
            uint16 (H, W), one map per vocabulary.

        Raises:
            ScoreError: If memory is too small, or scores are NaN or infinite; exceptions of the method are not changed.
        """
        return self._labels(PendingImage(0, self.steps.with_context(prepared), None, self.steps)).result()

    def _pending(
        self, number: int, image: np.ndarray, regions: np.ndarray | None, note: Note, resized: np.ndarray | None
    ) -> PendingImage:
        prepared = self.steps.with_context(self.steps.prepare(image, regions, note, resized))
        full = prepared.boxes[0].size == (self.steps.protocol.crop,) * 2
        shared = self.shares and full and prepared.context is None
        key = BatchKey(prepared.pad_region, region_slots(regions, prepared.size, prepared.boxes)) if shared else None
        return PendingImage(number, prepared, key, self.steps)

    def _tried(self, number: int, run: Callable[[], Any]) -> Any:
        return attempt(number, run, self.steps.seconds, self.steps.method)

    def _oldest_key(self) -> BatchKey:
        return next(iter(self.pending.values())).key

    def _run(self, key: BatchKey) -> Iterator[Prediction]:
        """Run one batch from the front of a queue."""
        members = _next(self.queues[key], self.size)
        members = [queued for queued in members if queued.owner.number in self.pending]  # the other images have failed
        for encoded in self._encoded(members) if members else ():
            owner = encoded.owner
            if owner.number not in self.pending:
                continue
            self.steps.seconds = owner.seconds
            prediction = self._tried(owner.number, lambda e=encoded: self._taken(e))
            if prediction is not None:
                del self.pending[owner.number]
                yield prediction

    def _labels(self, owner: PendingImage) -> DeviceLabels:
        """Label a single image; if memory runs out, repeat it with smaller limits, and keep them if they are enough."""
        before = self.steps.limits
        try:
            labels = self._attempt(owner)
            return self._with_less(owner) if labels is None else labels
        except ScoreError:
            self.steps.limits = before
            raise

    def _with_less(self, owner: PendingImage) -> DeviceLabels:
        """Label a single image after memory ran out, with smaller and smaller limits."""
        before, labels = self.steps.limits, None
        while labels is None:
            limits = self.steps.limits
            if limits == owner.limits:  # otherwise another image has lowered them
                limits = limits.smaller()
            if limits is None:
                self.steps.limits = before
                raise _out_of_memory("the scores of this image")
            warn_once(f"out of memory on {self.steps.device}: continuing with less at once")
            self.steps.limits = limits
            owner = PendingImage(owner.number, owner.prepared, None, self.steps)
            labels = self._attempt(owner)
        return labels

    def _attempt(self, owner: PendingImage) -> DeviceLabels | None:
        """Return the labels of a single image, None if memory runs out."""
        queue, labels = deque(_windows(owner)), None
        try:
            while queue:
                for encoded in self._encoded(_next(queue, self.steps.limits.windows)):
                    labels = self._take(encoded)
        except torch.cuda.OutOfMemoryError:
            return None
        return labels

    def _taken(self, encoded: Encoded) -> DeviceLabels | None:
        """Take the features of a window; if memory runs out, label its image on its own."""
        try:
            return self._take(encoded)
        except torch.cuda.OutOfMemoryError:
            pass  # repeated below, where the exception no longer holds the memory
        owner = encoded.owner
        owner.features.clear()
        return self._with_less(owner)

    def _take(self, encoded: Encoded) -> DeviceLabels | None:
        """Add the features of an image's next windows; return the labels after the last one, otherwise None."""
        (owner, count, features), steps = encoded, self.steps
        if isinstance(features, BaseException):
            raise features
        owner.features.append(self._kept(owner, features))
        owner.waiting += count
        boxes = owner.prepared.boxes[owner.scored : owner.scored + (owner.at_once or count)]
        if owner.waiting < len(boxes):
            return None
        if owner.at_once:
            features = _joined(owner.features, steps.device)
        owner.features, owner.waiting, owner.on_device = [], 0, 0
        if steps.method.needs.join:
            features = steps.join(owner.prepared, features)
        steps.score(owner.prepared, owner.means, features, boxes)
        del features, encoded
        owner.scored += len(boxes)
        return steps.finish(owner.prepared, owner.means) if owner.scored == len(owner.prepared.boxes) else None

    def _kept(self, owner: PendingImage, features: Any) -> Any:
        """Return the features, or a copy in host memory if features of unfinished images exceed the limit."""
        size = _bytes(features)
        if owner.at_once and sum(one.on_device for one in {owner, *self.pending.values()}) + size > FEATURE_BUDGET:
            return _on_host(features)
        owner.on_device += size
        return features

    def _encoded(self, members: list[QueuedWindow]) -> list[Encoded]:
        """Return the features of windows, or the error of their image."""
        start, found = time.perf_counter(), None
        try:
            found = self.steps.encode(self._batch(members))
        except torch.cuda.OutOfMemoryError:
            pass  # repeated below, where the exception no longer holds the memory
        except (Exception, SystemExit) as error:
            return self._image_by_image(members, error)
        if found is None:
            return self._in_halves(members)
        seconds = (time.perf_counter() - start) / len(members)
        for queued in members:
            queued.owner.seconds["encode"] = queued.owner.seconds.get("encode", 0.0) + seconds
        if members[0].owner.key is None:
            return [Encoded(members[0].owner, len(members), found)]
        return [Encoded(queued.owner, 1, _row(found, number)) for number, queued in enumerate(members)]

    def _batch(self, members: list[QueuedWindow]) -> Any:
        windows, key = [queued.window for queued in members], members[0].owner.key
        if key is None:
            return gather(windows)
        return gather(windows + windows[-1:] * (self.size - len(windows)), slots=key.region_slots)

    def _in_halves(self, members: list[QueuedWindow]) -> list[Encoded]:
        """Encode with half as many windows at once, because memory ran out."""
        alone = members[0].owner.key is None
        size = (len(members) if alone else self.size) // 2
        if size == 0:
            return [Encoded(queued.owner, 1, _out_of_memory("one window")) for queued in members]
        warn_once(f"out of memory on {self.steps.device}: continuing with less at once")
        if alone:
            self.steps.limits = self.steps.limits._replace(windows=size)
        else:
            self.size = size
        left, found = deque(members), []
        while left:
            found += self._encoded(_next(left, min(size, self.steps.limits.windows if alone else self.size)))
        return found

    def _image_by_image(self, members: list[QueuedWindow], error: BaseException) -> list[Encoded]:
        """Encode the windows of each image separately, to find the image that the method refuses."""
        owners = list(dict.fromkeys(queued.owner for queued in members))
        if len(owners) == 1:
            return [Encoded(owners[0], len(members), error)]
        by_image = [[queued for queued in members if queued.owner is owner] for owner in owners]
        return [encoded for windows in by_image for encoded in self._encoded(windows)]


def attempt(number: int, run: Callable[[], Any], seconds: dict[str, float], method: Any) -> Any:
    """Return the value of a function, label maps as a `Prediction`; after an error only this image has failed.

    Args:
        number: The number of the image.
        run: Returns label maps, or any other value.
        seconds: Time of each stage.
        method: The method whose code runs.
    """
    try:
        found = run()
    except torch.cuda.OutOfMemoryError:
        found = _out_of_memory("this image")
    except OvbenchError as error:
        found = error
    except (Exception, SystemExit) as error:
        found = blame(error, method)
    return Prediction(number, found, seconds) if isinstance(found, (DeviceLabels, list, OvbenchError)) else found


def _out_of_memory(what: str) -> ScoreError:
    return ScoreError(f"the device has too little memory for {what}", fix="choose another --device")


def _windows(owner: PendingImage) -> list[QueuedWindow]:
    return [QueuedWindow(owner, Window(owner.prepared, box)) for box in owner.prepared.boxes]


def _next(queue: deque[QueuedWindow], count: int) -> list[QueuedWindow]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]


def _row(features: Any, number: int) -> Any:
    """Return the features of one window, with the window axis."""
    return _each(features, lambda tensors: tensors[0][number : number + 1], [features])


def _joined(features: list[Any], device: torch.device) -> Any:
    """Concatenate the features of windows; a copy, so that the memory layout is always the same."""
    return _each(features[0], lambda tensors: torch.cat([t.to(device, non_blocking=True) for t in tensors]), features)


def _on_host(features: Any) -> Any:
    """Copy features to the memory of the host, from a GPU without waiting for it."""
    return _each(features, lambda tensors: start_download(tensors[0]), [features])


def _bytes(features: Any) -> int:
    """Return the size of features in bytes."""
    if isinstance(features, Tensor):
        return features.numel() * features.element_size()
    return sum(map(_bytes, features)) if isinstance(features, tuple) and hasattr(features, "_fields") else 0


def _each(first: Any, make: Callable[[list[Tensor]], Tensor], features: list[Any]) -> Any:
    """Apply ``make`` to the tensors of features of the same structure; other values are taken from the first."""
    if isinstance(first, Tensor):
        return make(features)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_each(field, make, fields) for field, *fields in zip(first, *features, strict=True)))
    return first
