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
from ovbench.inference.scene import Scene, Window, gather, region_slots
from ovbench.inference.sliding_window import WindowMean
from ovbench.methods.blame import blame
from ovbench.utils.errors import InputError, ScoreError


class Outcome(NamedTuple):
    """What became of an image: its labels u16[H, W], one map per vocabulary, or why there are none; and the seconds of
    every stage."""

    number: int
    labels: list[np.ndarray] | InputError | ScoreError
    seconds: dict[str, float]


def _outcome(number: int, seconds: dict[str, float], method: Any, label: Callable[[], list[np.ndarray]]) -> Outcome:
    try:
        return Outcome(number, label(), seconds)
    except (InputError, ScoreError) as error:
        return Outcome(number, error, seconds)
    except (Exception, SystemExit) as error:  # a mistake in the method's code costs the image, not the run
        return Outcome(number, blame(error, method), seconds)


class OneByOne:
    """Labels every image when it comes."""

    def __init__(self, predictor: Any):
        self.predictor = predictor

    def add(self, number: int, image: np.ndarray, regions: np.ndarray | None = None) -> Iterator[Outcome]:
        """Take the image u8[H, W, 3] with its region map i32[H, W]; gives the images that are done with that."""
        self.predictor.seconds = seconds = {}
        yield _outcome(number, seconds, self.predictor.method, lambda: self.predictor.label(image, regions))

    def rest(self) -> Iterator[Outcome]:
        """The images that still wait: none."""
        return iter(())


class Kind(NamedTuple):
    """What windows that share batches have in common beside their size; see `Batch`."""

    pad_region: int
    region_slots: int | None


class Waiting:
    """An image some of whose windows have not been through the method; their features come in order, and are scored
    ``at_once``, as if the image were alone."""

    def __init__(self, number: int, scene: Scene, kind: Kind, predictor: Predictor):
        self.number, self.scene, self.kind = number, scene, kind
        self.seconds, self.at_once = predictor.seconds, predictor.windows_at_once
        self.means: list[WindowMean] = predictor.means(scene)
        self.features: list[Any] = []
        self.scored = 0


class Queued(NamedTuple):
    """A window that waits for its batch."""

    owner: Waiting
    window: Window


class SharedBatches:
    """Labels images as they fill batches of ``size`` windows; no more than ``size`` images wait at a time.

    Only windows of the protocol's full size share batches. An image smaller than that, or any where the protocol has
    no windows, would find few others of its shape and is labelled by itself.
    """

    def __init__(self, predictor: Predictor, size: int):
        self.predictor, self.asked, self.size = predictor, size, size
        self.waiting: dict[int, Waiting] = {}  # in the order of their coming
        self.queues: dict[Kind, deque[Queued]] = {}

    def add(self, number: int, image: np.ndarray, regions: np.ndarray | None = None) -> Iterator[Outcome]:
        """Take the image u8[H, W, 3] with its region map i32[H, W]; gives the images that are done with that."""
        self.predictor.seconds = seconds = {}
        try:
            scene = self.predictor.resized_scene(image, regions)
        except (cv2.error, ValueError, RuntimeError) as error:  # of a shape that cannot be resized
            yield Outcome(number, blame(error, self.predictor.method), seconds)
            return
        if scene.boxes[0].size != (self.predictor.protocol.crop,) * 2:
            yield _outcome(number, seconds, self.predictor.method, lambda: self.predictor.label_scene(scene))
            return
        owner = self.waiting[number] = Waiting(
            number, scene, Kind(scene.pad_region, region_slots(regions)), self.predictor
        )
        queue = self.queues.setdefault(owner.kind, deque())
        queue.extend(Queued(owner, Window(scene, box)) for box in scene.boxes)
        while len(queue) >= self.size:
            yield from self._run(owner.kind)
        while len(self.waiting) > self.asked:
            yield from self._run(self._oldest_kind())

    def rest(self) -> Iterator[Outcome]:
        """The images that still wait."""
        while self.waiting:
            yield from self._run(self._oldest_kind())

    def _oldest_kind(self) -> Kind:
        return next(iter(self.waiting.values())).kind

    def _run(self, kind: Kind) -> Iterator[Outcome]:
        """One batch from the front of a queue."""
        queue = self.queues[kind]
        members = [queue.popleft() for _ in range(min(self.size, len(queue)))]
        members = [one for one in members if one.owner.number in self.waiting]  # the others' images have failed
        for one, features in self._encoded(members) if members else ():
            if one.owner.number not in self.waiting:
                continue
            self.predictor.seconds = one.owner.seconds
            take = partial(self._take, one.owner, features)
            outcome = _outcome(one.owner.number, one.owner.seconds, self.predictor.method, take)
            if outcome.labels is not None:
                del self.waiting[one.owner.number]
                yield outcome

    def _encoded(self, members: list[Queued]) -> list[tuple[Queued, Any]]:
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

    def _encode(self, members: list[Queued]) -> Any:
        windows = [one.window for one in members]
        padded = windows + windows[-1:] * (self.size - len(windows))
        return self.predictor.encode(gather(padded, slots=members[0].owner.kind.region_slots))

    def _in_halves(self, members: list[Queued]) -> list[tuple[Queued, Any]]:
        """The device has too little memory for so many windows."""
        if self.size == 1:
            error = ScoreError("the device has too little memory for one window", fix="choose another --device")
            return [(one, error) for one in members]
        if self.size == self.asked:
            print(f"out of memory on {self.predictor.device}: going on with smaller batches", file=sys.stderr)
        self.size //= 2
        pairs: list[tuple[Queued, Any]] = []
        while len(pairs) < len(members):
            pairs += self._encoded(members[len(pairs) : len(pairs) + self.size])
        return pairs

    def _image_by_image(self, members: list[Queued], error: Exception) -> list[tuple[Queued, Any]]:
        """The method refused a batch; which image does it mean?"""
        owners = list(dict.fromkeys(one.owner for one in members))
        if len(owners) == 1:
            return [(one, error) for one in members]
        parts = [[one for one in members if one.owner is owner] for owner in owners]
        return [pair for part in parts for pair in self._encoded(part)]

    def _take(self, owner: Waiting, features: Any) -> list[np.ndarray] | None:
        """The features of an image's next window; its labels, if that was the last. Raises what the window came to."""
        if isinstance(features, Exception):
            raise features
        owner.features.append(features)
        boxes = owner.scene.boxes[owner.scored : owner.scored + owner.at_once]
        if len(owner.features) < len(boxes):
            return None
        joined, owner.features, scored = _joined(owner.features), [], False
        try:
            self.predictor.score(owner.scene, owner.means, joined, boxes)
            scored = True
        except torch.cuda.OutOfMemoryError:
            del joined
        if not scored:
            return self.predictor.label_scene(owner.scene)  # by itself, with fewer windows at once
        owner.scored += len(boxes)
        return self.predictor.finish(owner.scene, owner.means) if owner.scored == len(owner.scene.boxes) else None


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
