"""Images through a predictor: one by one, or with the windows of several in batches of one size.

In shared batches every forward pass has the same shape, the last one is padded, and a window's features depend on
nothing that shares its batch. So an image gets the same labels whichever images come before or with it: to the last bit
as far as the device computes a row of a batch alike wherever it stands, which `ovbench check` tries.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ovbench.inference.predictor import Predictor
from ovbench.inference.sliding_window import WindowMean
from ovbench.inference.windowed_image import Window, WindowedImage, gather, region_slots
from ovbench.methods.blame import blame
from ovbench.utils.errors import InputError, ScoreError


class Prediction(NamedTuple):
    """What became of an image: its labels u16[H, W], one map per vocabulary, or why there are none; and the seconds of
    every stage."""

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
    except (Exception, SystemExit) as error:  # a mistake in the method's code costs the image, not the run
        return Prediction(number, blame(error, method), seconds)


class ImageByImage:
    """Labels every image when it comes."""

    def __init__(self, predictor: Any):
        self.predictor = predictor

    def add(self, number: int, image: np.ndarray, regions: np.ndarray | None = None) -> Iterator[Prediction]:
        """Take the image u8[H, W, 3] with its region map i32[H, W]; gives the images that are done with that."""
        self.predictor.seconds = seconds = {}
        yield _prediction(number, seconds, self.predictor.method, lambda: self.predictor.label(image, regions))

    def flush(self) -> Iterator[Prediction]:
        """The images that still wait: none."""
        return iter(())


class BatchKey(NamedTuple):
    """What windows that share batches have in common beside their size; see `Batch`."""

    pad_region: int
    region_slots: int | None


class PendingImage:
    """An image some of whose windows have not been through the method; their features come in order, and are scored
    ``at_once``, as if the image were alone."""

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
    """Labels images as they fill batches of ``size`` windows; no more than ``size`` images wait at a time.

    Only windows of the protocol's full size share batches. An image smaller than that, or any where the protocol has
    no windows, would find few others of its shape and is labelled by itself.
    """

    def __init__(self, predictor: Predictor, size: int):
        self.predictor, self.asked, self.size = predictor, size, size
        self.pending: dict[int, PendingImage] = {}  # in the order of their coming
        self.queues: dict[BatchKey, deque[QueuedWindow]] = {}

    def add(self, number: int, image: np.ndarray, regions: np.ndarray | None = None) -> Iterator[Prediction]:
        """Take the image u8[H, W, 3] with its region map i32[H, W]; gives the images that are done with that."""
        self.predictor.seconds = seconds = {}
        try:
            prepared = self.predictor.prepare(image, regions)
        except (cv2.error, ValueError, RuntimeError) as error:  # of a shape that cannot be resized
            yield Prediction(number, blame(error, self.predictor.method), seconds)
            return
        if prepared.boxes[0].size != (self.predictor.protocol.crop,) * 2:
            yield _prediction(number, seconds, self.predictor.method, lambda: self.predictor.label_prepared(prepared))
            return
        owner = self.pending[number] = PendingImage(
            number, prepared, BatchKey(prepared.pad_region, region_slots(regions)), self.predictor
        )
        queue = self.queues.setdefault(owner.key, deque())
        queue.extend(QueuedWindow(owner, Window(prepared, box)) for box in prepared.boxes)
        while len(queue) >= self.size:
            yield from self._run(owner.key)
        while len(self.pending) > self.asked:
            yield from self._run(self._oldest_key())

    def flush(self) -> Iterator[Prediction]:
        """The images that still wait."""
        while self.pending:
            yield from self._run(self._oldest_key())

    def _oldest_key(self) -> BatchKey:
        return next(iter(self.pending.values())).key

    def _run(self, key: BatchKey) -> Iterator[Prediction]:
        """One batch from the front of a queue."""
        queue = self.queues[key]
        members = [queue.popleft() for _ in range(min(self.size, len(queue)))]
        members = [one for one in members if one.owner.number in self.pending]  # the others' images have failed
        for one, features in self._encoded(members) if members else ():
            if one.owner.number not in self.pending:
                continue
            self.predictor.seconds = one.owner.seconds
            take = partial(self._take, one.owner, features)
            prediction = _prediction(one.owner.number, one.owner.seconds, self.predictor.method, take)
            if prediction.labels is not None:
                del self.pending[one.owner.number]
                yield prediction

    def _encoded(self, members: list[QueuedWindow]) -> list[tuple[QueuedWindow, Any]]:
        """Each window with its features, or with the error of its image."""
        start, found = time.perf_counter(), None
        try:
            found = self._encode(members)
        except torch.cuda.OutOfMemoryError:
            pass  # the memory is free again when this is left
        except (InputError, ScoreError) as error:
            found = error
        except (Exception, SystemExit) as error:
            found = blame(error, self.predictor.method)
        if found is None:
            return self._in_halves(members)
        if isinstance(found, Exception):
            return self._image_by_image(members, found)
        share = (time.perf_counter() - start) / len(members)
        for one in members:
            one.owner.seconds["encode"] = one.owner.seconds.get("encode", 0.0) + share
        return [(one, _row(found, number)) for number, one in enumerate(members)]

    def _encode(self, members: list[QueuedWindow]) -> Any:
        windows = [one.window for one in members]
        padded = windows + windows[-1:] * (self.size - len(windows))
        return self.predictor.encode(gather(padded, slots=members[0].owner.key.region_slots))

    def _in_halves(self, members: list[QueuedWindow]) -> list[tuple[QueuedWindow, Any]]:
        """The device has too little memory for so many windows."""
        if self.size == 1:
            error = ScoreError("the device has too little memory for one window", fix="choose another --device")
            return [(one, error) for one in members]
        if self.size == self.asked:
            print(f"out of memory on {self.predictor.device}: going on with smaller batches", file=sys.stderr)
        self.size //= 2
        pairs: list[tuple[QueuedWindow, Any]] = []
        while len(pairs) < len(members):
            pairs += self._encoded(members[len(pairs) : len(pairs) + self.size])
        return pairs

    def _image_by_image(self, members: list[QueuedWindow], error: Exception) -> list[tuple[QueuedWindow, Any]]:
        """The method refused a batch; which image does it mean?"""
        owners = list(dict.fromkeys(one.owner for one in members))
        if len(owners) == 1:
            return [(one, error) for one in members]
        parts = [[one for one in members if one.owner is owner] for owner in owners]
        return [pair for part in parts for pair in self._encoded(part)]

    def _take(self, owner: PendingImage, features: Any) -> list[np.ndarray] | None:
        """The features of an image's next window; its labels, if that was the last. Raises what the window came to."""
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
            return self.predictor.label_prepared(owner.prepared)  # by itself, with fewer windows at once
        owner.scored += len(boxes)
        return self.predictor.finish(owner.prepared, owner.means) if owner.scored == len(owner.prepared.boxes) else None


def _row(features: Any, number: int) -> Any:
    """The features of one window, still with an axis of windows."""
    return _each(features, lambda tensors: tensors[0][number : number + 1], [features])


def _joined(features: list[Any]) -> Any:
    """Features of windows as those of a batch; a copy, so that they lie in memory as if they had always been one."""
    return _each(features[0], torch.cat, features)


def _each(first: Any, make: Callable[[list[Tensor]], Tensor], features: list[Any]) -> Any:
    """Features of the same form, made tensor by tensor of several; what is no tensor is that of the first."""
    if isinstance(first, Tensor):
        return make(features)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_each(part, make, parts) for part, *parts in zip(first, *features, strict=True)))
    return first
