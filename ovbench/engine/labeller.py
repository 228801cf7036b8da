"""One image through one method: resize, windows, scores, merge, labels. Everything that labels images drives this."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ovbench.config import Protocol
from ovbench.engine.pamr import PAMR
from ovbench.engine.reduce import Decision, decide, upsample
from ovbench.engine.windows import Box, Pad, WindowMean, cut, pad_to_multiple, window_grid
from ovbench.errors import ScoreError
from ovbench.methods.base import Batch, Method, Queries
from ovbench.regions.base import nearest_ids

PAD_REGION = 10000  # the official id of padded pixels; moved up where a region map uses it itself
PAD_TO_PATCH = -1  # in a protocol: windows are padded to the patch of CLIP, whichever tower is used
WINDOWS_AT_ONCE = 16

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
        note = note or (lambda name, value: None)
        self.vocabularies = [queries.to(self.device) for queries in self.vocabularies]
        region_map = None if regions is None else torch.as_tensor(regions, dtype=torch.int64, device=self.device)
        normalised = self._normalise(resized)
        scores = self._scores(normalised, region_map, note, original)
        for merged in scores:
            if not torch.isfinite(merged.sum()):
                raise ScoreError(f"{type(self.method).__name__} gave scores that are not numbers")
        with self._stage("decide"):
            return [
                self._decide(self._full(merged, normalised, original, note), queries, decision, region_map, note)
                for merged, queries, decision in zip(scores, self.vocabularies, self.decisions, strict=True)
            ]

    def _normalise(self, image: np.ndarray) -> Tensor:
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.protocol.mean, self.protocol.std))
        pixels = torch.as_tensor(np.ascontiguousarray(image), device=self.device).permute(2, 0, 1)
        return (pixels.float() - mean) / std

    def _scores(self, image: Tensor, regions: Tensor | None, note: Note, original: tuple[int, int]) -> list[Tensor]:
        """Merged window scores f[q, h, w] of the resized image f[3, h, w], one per vocabulary. An image without windows
        (crop 0) is never padded, and its scores come at the size ``original``, enlarged once, as the official codes do.
        """
        size = tuple(image.shape[1:])
        whole = self.protocol.crop == 0
        at_original = whole and self.method.enlarges_once
        pad_region = PAD_REGION
        region_map = regions
        if regions is not None:
            pad_region = max(PAD_REGION, int(regions.max()) + 1)
            regions = nearest_ids(regions[None], size)[0]
        means = [WindowMean(original if at_original else size) for _ in self.vocabularies]
        boxes = window_grid(size, self.protocol.crop, self.protocol.stride)
        note("windows", boxes)
        context = self.method.encode_image(image)
        for start in range(0, len(boxes), self.windows_at_once):
            chunk = boxes[start : start + self.windows_at_once]
            pad = pad_to_multiple(chunk[0].size, 0 if whole else self.pad_multiple)
            with self._stage("encode"):
                batch = Batch(
                    windows=cut(image, chunk, pad),
                    regions=None if regions is None else cut(regions, chunk, pad, pad_region),
                    pad_region=pad_region,
                    region_map=region_map,
                    context=context,
                    note=note,
                )
                note("batch_windows", batch.windows)
                features = self.method.encode(batch)
                note("features", features)
            with self._stage("score"):
                self._add_scores(batch, features, [Box(0, 0, *original)] if at_original else chunk, pad, means)
        self.windows_seen += len(boxes)
        return [mean.result() for mean in means]

    def _add_scores(self, batch: Batch, features: Any, chunk: list[Box], pad: Pad, means: list[WindowMean]) -> None:
        for queries, mean in zip(self.vocabularies, means, strict=True):
            scores = self.method.score(features, queries)
            batch.note("patch_scores", scores)
            scores = self.method.window_scores(scores, chunk[0].size, pad)
            if self.refine_windows is not None:
                scores = self._refined(scores, batch.windows, pad)
            batch.note("window_scores", scores)
            mean.add(scores, chunk)

    def _refined(self, scores: Tensor, windows: Tensor, pad: Pad) -> Tensor:
        """Window scores f[b, q, h, w] refined along the edges of the windows they come from."""
        h, w = windows.shape[-2:]
        guides = windows[..., pad.top : h - pad.bottom, pad.left : w - pad.right]
        size = tuple(scores.shape[-2:])
        return torch.stack([self.refine_windows(s, upsample(g, size)) for s, g in zip(scores, guides, strict=True)])

    def _full(self, merged: Tensor, image: Tensor, original: tuple[int, int], note: Note) -> Tensor:
        """Merged scores at the original size f[q, H, W], refined along the edges of the image f[3, h, w] if asked."""
        note("merged_scores", merged)
        full = upsample(merged, original)
        note("full_scores", full)
        if self.refine is not None:
            full = self.refine(full, upsample(image, original))
            note("refined_scores", full)
        return full

    def _decide(
        self, full: Tensor, queries: Queries, decision: Decision, regions: Tensor | None, note: Note
    ) -> np.ndarray:
        probabilities = self.method.probabilities(full, queries, decision)
        note("probabilities", probabilities)
        labels = decide(probabilities, decision)
        note("labels_raw", labels)
        labels = self.method.refine_labels(labels, regions)
        note("labels", labels)
        return labels.to(torch.int32).cpu().numpy().astype(np.uint16)
