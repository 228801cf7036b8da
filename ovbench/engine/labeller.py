"""One image through one method: resize, windows, scores, merge, labels. Everything that labels images drives this."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ovbench.config import Protocol
from ovbench.engine.pamr import PAMR
from ovbench.engine.reduce import Decision, decide, decide_queries, labels_by_tiles, upsample
from ovbench.engine.windows import Box, Pad, WindowMean, cut, pad_to_multiple, window_grid
from ovbench.errors import ScoreError
from ovbench.methods.base import Batch, Method, Queries
from ovbench.regions.base import nearest_ids

PAD_REGION = 10000  # the official id of padded pixels; moved up where a region map uses it itself
PAD_TO_PATCH = -1  # in a protocol: windows are padded to the patch of CLIP, whichever tower is used
WINDOWS_AT_ONCE = 16
CHUNK_CPU, CHUNK_GPU = 1 << 20, 1 << 28  # elements of window scores that exist at once

Note = Callable[[str, Any], None]


def resized_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """mmcv's ``rescale_size``: the factor that brings the short side to ``short_side`` without the long side exceeding
    ``long_side``; sides are rounded half up. ``short_side`` 0 keeps the size."""
    h, w = size
    if short_side == 0:
        return h, w
    factor = min(max(short_side, long_side) / max(h, w), min(short_side, long_side) / min(h, w))
    return int(h * factor + 0.5), int(w * factor + 0.5)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear on uint8 by OpenCV, as mmcv's ``imrescale``."""
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


class Scene(NamedTuple):
    """One image on its way: ``image`` f[3, h, w] resized and normalised, ``original`` its size (H, W) before,
    ``regions`` i64[H, W] at that size; ``note`` hears of intermediate quantities, in ``plain`` form if anybody listens.
    """

    image: Tensor
    original: tuple[int, int]
    regions: Tensor | None
    note: Note
    plain: bool


class Labeller:
    """A method with its protocol, for one or several vocabularies; it runs where the method's tensors are.

    Windows of an image go through the method in batches whose shape depends on that image alone, so that its labels do
    not depend on the images before it.
    """

    def __init__(self, method: Method, protocol: Protocol, vocabularies: list[Queries]):
        self.method = method.eval()
        self.protocol = protocol
        self.vocabularies = vocabularies
        self.decisions = [Decision(protocol.logit_scale, protocol.prob_thd) for _ in vocabularies]
        self.pad_multiple = method.clip.patch if protocol.pad == PAD_TO_PATCH else protocol.pad
        pamr = PAMR(protocol.pamr_iterations, protocol.pamr_dilations)
        self.refine = pamr if protocol.refine == "pamr" else None
        self.refine_windows = pamr if protocol.refine == "pamr-windows" else None
        self.windows_at_once = WINDOWS_AT_ONCE
        self.seconds: dict[str, float] = {}
        self.windows_seen = 0

    def add_vocabulary(self, queries: Queries, decision: Decision) -> None:
        """Score one more vocabulary from the same features, with its own scale and threshold."""
        self.vocabularies = [*self.vocabularies, queries]
        self.decisions.append(decision)

    @property
    def device(self) -> torch.device:
        return next(self.method.parameters()).device

    @contextmanager
    def _stage(self, name: str):
        """Adds the time of a stage. On a GPU this is the time to queue the work; waiting for it falls to "decide"."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def label(self, image: np.ndarray, regions: np.ndarray | None = None) -> list[np.ndarray]:
        """Labels of an RGB image u8[H, W, 3] at its own size, u16[H, W], one map per vocabulary.

        ``regions`` i32[H, W] is the region map of the original image, for methods that need one.
        """
        with self._stage("resize"):
            size = resized_size(image.shape[:2], self.protocol.short_side, self.protocol.long_side)
            resized = resize_image(image, size)
        return self.label_resized(resized, image.shape[:2], regions)

    @torch.inference_mode()
    def label_resized(
        self,
        resized: np.ndarray,
        original: tuple[int, int],
        regions: np.ndarray | None = None,
        note: Note | None = None,
    ) -> list[np.ndarray]:
        """As `label`, for an image that has already been through the resize rule; ``original`` is its size before."""
        self.vocabularies = [queries.to(self.device) for queries in self.vocabularies]
        region_map = None if regions is None else torch.as_tensor(regions, dtype=torch.int64, device=self.device)
        scene = Scene(self._normalise(resized), original, region_map, note or (lambda name, value: None), bool(note))
        scores = self._scores(scene)
        for merged in scores:
            if not torch.isfinite(merged.sum()):
                raise ScoreError(f"{type(self.method).__name__} gave scores that are not numbers")
        with self._stage("decide"):
            return [
                self._decide(scene, merged, queries, decision)
                for merged, queries, decision in zip(scores, self.vocabularies, self.decisions, strict=True)
            ]

    def _normalise(self, image: np.ndarray) -> Tensor:
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.protocol.mean, self.protocol.std))
        pixels = torch.as_tensor(np.ascontiguousarray(image), device=self.device).permute(2, 0, 1)
        return (pixels.float() - mean) / std

    def _scores(self, scene: Scene) -> list[Tensor]:
        """As `_merged`; where the device has too little memory, again with half as many windows at once."""
        while True:
            try:
                return self._merged(scene)
            except torch.cuda.OutOfMemoryError:
                boxes = window_grid(tuple(scene.image.shape[1:]), self.protocol.crop, self.protocol.stride)
                windows = min(self.windows_at_once, len(boxes)) // 2
            if windows == 0:
                raise ScoreError("the device has too little memory for one window", fix="choose another --device")
            if self.windows_at_once == WINDOWS_AT_ONCE:
                print(f"out of memory on {self.device}: going on with fewer windows at once", file=sys.stderr)
            self.windows_at_once = windows

    def _merged(self, scene: Scene) -> list[Tensor]:
        """Merged window scores f[q, h, w] of the resized image f[3, h, w], one per vocabulary. An image without windows
        (crop 0) is never padded, and its scores are enlarged once, as the official codes do: here to the size
        ``original``, or where tiles will do it, they stay f[q, gh, gw].
        """
        image, size = scene.image, tuple(scene.image.shape[1:])
        whole = self.protocol.crop == 0
        at_original = whole and self.method.enlarges_once
        as_cells = at_original and self._as_cells(scene)
        pad_region, regions = PAD_REGION, scene.regions
        if regions is not None:
            pad_region = max(PAD_REGION, int(regions.max()) + 1)
            regions = nearest_ids(regions[None], size)[0]
        means = [WindowMean(None if as_cells else scene.original if at_original else size) for _ in self.vocabularies]
        boxes = window_grid(size, self.protocol.crop, self.protocol.stride)
        scene.note("windows", boxes)
        context = self.method.encode_image(image)
        for start in range(0, len(boxes), self.windows_at_once):
            chunk = boxes[start : start + self.windows_at_once]
            pad = pad_to_multiple(chunk[0].size, 0 if whole else self.pad_multiple)
            with self._stage("encode"):
                batch = Batch(
                    windows=cut(image, chunk, pad),
                    regions=None if regions is None else cut(regions, chunk, pad, pad_region),
                    pad_region=pad_region,
                    region_map=scene.regions,
                    context=context,
                    note=scene.note,
                )
                scene.note("batch_windows", batch.windows)
                features = self.method.encode(batch)
                scene.note("features", features)
            with self._stage("score"):
                places = [Box(0, 0, *scene.original)] if at_original else chunk
                for queries, mean in zip(self.vocabularies, means, strict=True):
                    scores = self.method.score(features, queries)
                    scene.note("patch_scores", scores)
                    self._add_scores(scene, batch, scores, places, pad, mean)
        self.windows_seen += len(boxes)
        return [mean.result() for mean in means]

    def _as_cells(self, scene: Scene) -> bool:
        """Whether the cells of a whole image may wait for the tiles to be enlarged."""
        return not self._plain(scene) and type(self.method).window_scores is Method.window_scores

    def _plain(self, scene: Scene) -> bool:
        """Whether scores have to exist at full size for all queries at once."""
        return scene.plain or not self.method.pixelwise or self.refine is not None or self.refine_windows is not None

    def _add_scores(
        self, scene: Scene, batch: Batch, scores: Tensor, places: list[Box], pad: Pad, mean: WindowMean
    ) -> None:
        """Add cell scores f[b, q, gh, gw] to the mean: some queries after others, so that little exists at once."""
        if mean.size is None:
            mean.add(scores, [Box(0, 0, *scores.shape[2:])])
            return
        queries, size = scores.shape[1], places[0].size
        budget = CHUNK_CPU if scores.device.type == "cpu" else CHUNK_GPU
        step = queries if self._plain(scene) else max(budget // (len(scores) * size[0] * size[1]), 1)
        for start in range(0, queries, step):
            part = self.method.window_scores(scores[:, start : start + step], size, pad)
            if self.refine_windows is not None:
                part = self._refined(part, batch.windows, pad)
            scene.note("window_scores", part)
            mean.add(part, places, start, queries)

    def _refined(self, scores: Tensor, windows: Tensor, pad: Pad) -> Tensor:
        """Window scores f[b, q, h, w] refined along the edges of the windows they come from."""
        h, w = windows.shape[-2:]
        guides = windows[..., pad.top : h - pad.bottom, pad.left : w - pad.right]
        size = tuple(scores.shape[-2:])
        return torch.stack([self.refine_windows(s, upsample(g, size)) for s, g in zip(scores, guides, strict=True)])

    def _decide(self, scene: Scene, merged: Tensor, queries: Queries, decision: Decision) -> np.ndarray:
        """The label map u16[H, W] of merged scores f[q, h, w]."""
        form = self._labels_plainly if self._plain(scene) else self._labels_by_tiles
        labels = self.method.refine_labels(form(scene, merged, queries, decision), scene.regions)
        scene.note("labels", labels)
        return labels.to(torch.int32).cpu().numpy().astype(np.uint16)

    def _labels_by_tiles(self, scene: Scene, merged: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """As `_labels_plainly`, from one tile of the original size after another."""

        def decide_tile(scores: Tensor) -> Tensor:
            if type(self.method).probabilities is Method.probabilities:
                return decide_queries(scores, queries.class_index, decision)
            return decide(self.method.probabilities(scores, queries, decision), decision)

        return labels_by_tiles(merged, scene.original, decide_tile)

    def _labels_plainly(self, scene: Scene, merged: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Labels i64[H, W] by way of scores f[q, H, W] at the original size, refined along its edges if asked."""
        scene.note("merged_scores", merged)
        full = upsample(merged, scene.original)
        scene.note("full_scores", full)
        if self.refine is not None:
            full = self.refine(full, upsample(scene.image, scene.original))
            scene.note("refined_scores", full)
        probabilities = self.method.probabilities(full, queries, decision)
        scene.note("probabilities", probabilities)
        labels = decide(probabilities, decision)
        scene.note("labels_raw", labels)
        return labels
