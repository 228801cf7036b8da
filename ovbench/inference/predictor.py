"""One image through one method: resize, windows, scores, merge, labels."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovbench.backbones.normalization import per_channel
from ovbench.backbones.preprocess import Normalisation
from ovbench.config.load import Protocol
from ovbench.inference.decision import Leading, decide, tile_elements
from ovbench.inference.pamr import PAMR
from ovbench.inference.sliding_window import WindowMean, cut, pad_to_multiple, window_grid
from ovbench.inference.windowed_image import Fragment, Window, gather, pad_region
from ovbench.methods.base import Batch, Method, Note, Queries, WindowedImage, no_note
from ovbench.methods.bilinear import enlarge, enlarged_tiles
from ovbench.methods.blame import check_features, expect
from ovbench.methods.ops import Box, Decision, Pad
from ovbench.regions.ids import resized_ids
from ovbench.utils.errors import InputError, ScoreError, UsageError, warn_once
from ovbench.utils.images import resize_image, resized_size

PAD_TO_PATCH = -1  # in a protocol: windows are padded to the patch size of the tower that reads the queries
WINDOWS_AT_ONCE = 16
CHUNK_CPU, CHUNK_GPU = 1 << 20, 1 << 28  # elements of window scores in memory at once


class Predictor:
    """Run a method with its protocol for one or several vocabularies, on the device of the method's tensors.

    `label` labels one image alone: the shape of its batches depends on this image only, so its labels do not depend on
    earlier images. `prepare`, `means`, `encode`, `score` and `finish` are the steps of it; `ovbench.inference.batching`
    uses them for batches with windows of several images.
    """

    def __init__(self, method: Method, protocol: Protocol, vocabularies: list[Queries]):
        self.method = method.eval()
        self.method.normalisation = Normalisation(tuple(protocol.mean), tuple(protocol.std))
        self.protocol = protocol
        self.vocabularies: list[Queries] = []
        self.decisions: list[Decision] = []
        for queries in vocabularies:
            self.add_vocabulary(queries, protocol)
        tower = getattr(method, method.reads, None) or getattr(method, method.sees, None)
        self.patch = getattr(tower, "patch", 0)  # 0: of a third party's tower, whose patch is not known
        self.pad_multiple = self.patch if protocol.pad == PAD_TO_PATCH else protocol.pad
        if protocol.crop and self._is_below_patch(protocol.crop + -protocol.crop % (self.pad_multiple or 1)):
            raise UsageError(
                f"windows of crop = {protocol.crop} pixels are smaller than a patch of {self.patch} pixels",
                fix=f"set crop to at least {self.patch}, or to 0 for whole images",
            )
        pamr = PAMR(protocol.pamr_iterations, protocol.pamr_dilations)
        self.refine = pamr if protocol.refine == "pamr" else None
        self.refine_windows = pamr if protocol.refine == "pamr-windows" else None
        self.whole = protocol.crop == 0
        self.adjusts = type(method).adjust is not Method.adjust
        self.at_original = self.whole and method.enlarges_once and not self.adjusts
        # then cell scores can be enlarged tile by tile in the decision
        self.as_cells = (
            self.at_original and self.refine_windows is None and type(method).window_scores is Method.window_scores
        )
        self.by_queries = type(method).probabilities is Method.probabilities
        self.windows_at_once = WINDOWS_AT_ONCE
        self.seconds: dict[str, float] = {}

    def add_vocabulary(self, queries: Queries, protocol: Protocol) -> None:
        """Score one more vocabulary from the same features.

        Args:
            queries: the text side.
            protocol: its ``logit_scale`` and ``prob_thd`` are used.
        """
        decision = Decision(protocol.logit_scale, protocol.prob_thd, queries.background)
        if decision.threshold != protocol.prob_thd:
            warn_once(
                f"prob_thd = {protocol.prob_thd:g} is not used, because the classes have no background for "
                "pixels below it; name one (background in the card), or set prob_thd=0"
            )
        self.vocabularies = [*self.vocabularies, queries]
        self.decisions.append(decision)

    def clear_vocabularies(self) -> None:
        """Remove all vocabularies."""
        self.vocabularies, self.decisions = [], []

    @property
    def device(self) -> torch.device:
        """Return the device of the method."""
        return next(self.method.parameters()).device

    @contextmanager
    def stage(self, name: str):
        """Add the time of a stage; on a GPU, the time to queue the work, except for "decide", which waits for it."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def label(self, image: np.ndarray, regions: np.ndarray | None = None) -> list[np.ndarray]:
        """Label an image.

        Args:
            image: uint8 (H, W, 3), RGB, at its original size.
            regions: int32 (H, W), the region map, for methods that need one.

        Returns:
            uint16 (H, W), one map per vocabulary.

        Raises:
            ScoreError: memory is too small for one window, or scores are NaN or infinite.
        """
        return self.label_prepared(self.prepare(image, regions))

    def label_resized(
        self,
        resized: np.ndarray,
        original: tuple[int, int],
        regions: np.ndarray | None = None,
        note: Note = no_note,
        pixels: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Label an image that is already resized by the protocol.

        Args:
            resized: uint8 (h, w, 3), RGB.
            original: size (H, W) before resizing.
            regions: int32 (H, W), the region map, for methods that need one.
            note: called with intermediate quantities.
            pixels: uint8 (H, W, 3), RGB, the image before resizing, for methods that need it.

        Returns:
            uint16 (H, W), one map per vocabulary.
        """
        return self.label_prepared(self.windowed(resized, original, regions, note, pixels))

    def prepare(self, image: np.ndarray, regions: np.ndarray | None = None) -> WindowedImage:
        """Resize an image and divide it into windows.

        Args:
            image: uint8 (H, W, 3), RGB, at its original size.
            regions: int32 (H, W), the region map, for methods that need one.
        """
        with self.stage("resize"):
            size = resized_size(image.shape[:2], self.protocol.short_side, self.protocol.long_side)
            return self.windowed(resize_image(image, size), image.shape[:2], regions, pixels=image)

    @torch.inference_mode()
    def windowed(
        self,
        resized: np.ndarray,
        original: tuple[int, int],
        regions: np.ndarray | None = None,
        note: Note = no_note,
        pixels: np.ndarray | None = None,
    ) -> WindowedImage:
        """Copy a resized image to the device and divide it into windows; see `label_resized` for the arguments."""
        self.vocabularies = [queries.to(self.device) for queries in self.vocabularies]
        size = resized.shape[:2]
        boxes = window_grid(size, self.protocol.crop, self.protocol.stride)
        pad = pad_to_multiple(boxes[0].size, 0 if self.whole else self.pad_multiple)  # a whole image is never padded
        map_ = None if regions is None else self._upload(regions).long()
        resized_map = None if regions is None else self._upload(resized_ids(regions, size)).long()
        seen = None
        if self.method.needs.original:
            if pixels is None:
                raise UsageError(f"{type(self.method).__name__} needs the image at its original size")
            seen = self._upload(pixels)
        image = self._normalise(resized)
        return WindowedImage(
            image, original, boxes, pad, seen, map_, resized_map, pad_region(regions), context=None, note=note
        )

    @torch.inference_mode()
    def with_context(self, prepared: WindowedImage) -> WindowedImage:
        """Return the image with what the method computes once for it."""
        with self.stage("encode"):
            return prepared._replace(context=self.method.encode_image(prepared))

    def _normalise(self, image: np.ndarray) -> Tensor:
        pixels = self._upload(image).permute(2, 0, 1).float()
        mean, std = (per_channel(tuple(values), pixels) for values in (self.protocol.mean, self.protocol.std))
        return (pixels - mean) / std

    def _upload(self, values: np.ndarray) -> Tensor:
        """Copy values to the device; to a GPU through pinned memory, so that the host does not wait."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    @torch.inference_mode()
    def label_prepared(self, prepared: WindowedImage) -> list[np.ndarray]:
        """Label an image alone; if memory runs out, repeat it with half as many windows at once.

        Returns:
            uint16 (H, W), one map per vocabulary.

        Raises:
            InputError: the image is smaller than a patch.
            ScoreError: memory is too small for one window, or scores are NaN or infinite.
        """
        (height, width), pad = prepared.boxes[0].size, prepared.pad
        height, width = height + pad.top + pad.bottom, width + pad.left + pad.right
        if self._is_below_patch(min(height, width)):
            raise InputError(
                f"the image has windows of {width}x{height} pixels, less than a patch of {self.patch} pixels",
                fix="exclude the image, or set pad or a larger short_side",
            )
        means = None
        while means is None:
            try:
                prepared = prepared if prepared.context is not None else self.with_context(prepared)
                means = self._scores(prepared)
            except torch.cuda.OutOfMemoryError:
                windows = min(self.windows_at_once, len(prepared.boxes)) // 2
            if means is None:
                self.fewer_windows(windows)
        return self.finish(prepared, means)

    def _is_below_patch(self, side: int) -> bool:
        """Return whether a side of a padded window is smaller than a patch."""
        return side < self.patch

    def fewer_windows(self, windows: int) -> None:
        """Set the number of windows at once, with a message the first time.

        Raises:
            ScoreError: the number is 0.
        """
        if windows == 0:
            raise ScoreError("the device has too little memory for one window", fix="choose another --device")
        if self.windows_at_once == WINDOWS_AT_ONCE:
            print(f"out of memory on {self.device}: continuing with fewer windows at once", file=sys.stderr)
        self.windows_at_once = windows

    def _scores(self, prepared: WindowedImage) -> list[WindowMean]:
        """Return the merged window scores of an image alone, one per vocabulary."""
        means = self.means(prepared)
        prepared.note("windows", prepared.boxes)
        for start in range(0, len(prepared.boxes), self.windows_at_once):
            boxes = prepared.boxes[start : start + self.windows_at_once]
            with self.stage("encode"):
                features = self.encode(gather([Window(prepared, box) for box in boxes]))
            self.score(prepared, means, features, boxes)
        return means

    @torch.inference_mode()
    def encode(self, batch: Batch) -> Any:
        """Return the method's features of a batch, checked."""
        batch.note("batch_windows", batch.windows)
        features = self.method.encode(batch)
        if type(self.method).score is Method.score:
            check_features(features, len(batch.windows), self.method)
        batch.note("features", features)
        return features

    def means(self, prepared: WindowedImage) -> list[WindowMean]:
        """Return an empty `WindowMean` per vocabulary.

        It has the resized size of the image. A whole image that is enlarged once has its original size, or stays cells
        until the decision.
        """
        size = prepared.original if self.at_original else prepared.size
        return [WindowMean(None if self.as_cells else size) for _ in self.vocabularies]

    @torch.inference_mode()
    def score(self, prepared: WindowedImage, means: list[WindowMean], features: Any, boxes: list[Box]) -> None:
        """Score some windows and add the scores to the means of their image.

        Args:
            prepared: the image.
            means: one per vocabulary.
            features: from `encode`.
            boxes: the windows of these features.
        """
        with self.stage("score"):
            for queries, mean in zip(self.vocabularies, means, strict=True):
                scores = expect(
                    self.method.score(features, queries), (len(boxes), None, None, None), self.method, "score"
                )
                prepared.note("patch_scores", scores)
                self._add_scores(prepared, boxes, scores, mean)

    @torch.inference_mode()
    def finish(self, prepared: WindowedImage, means: list[WindowMean]) -> list[np.ndarray]:
        """Compute the labels of an image after all of its windows are scored.

        Returns:
            uint16 (H, W), one map per vocabulary.

        Raises:
            ScoreError: scores are NaN or infinite. This is checked last, because the host must wait for the answer.
        """
        with self.stage("decide"):
            merged = [
                self._adjusted(prepared, mean.result(), queries)
                for mean, queries in zip(means, self.vocabularies, strict=True)
            ]
            finite = torch.stack([scores.sum().isfinite() for scores in merged])
            labels = [
                self._decide(prepared, scores, queries, decision)
                for scores, queries, decision in zip(merged, self.vocabularies, self.decisions, strict=True)
            ]
            if not finite.all():
                raise ScoreError(f"{type(self.method).__name__} returned scores that are NaN or infinite")
            return [map_.cpu().numpy().astype(np.uint16) for map_ in labels]

    def _add_scores(self, prepared: WindowedImage, boxes: list[Box], scores: Tensor, mean: WindowMean) -> None:
        """Add cell scores (B, Q, gh, gw) to the mean, some queries at a time to limit memory."""
        if self.as_cells:
            mean.add(scores, [Box(0, 0, *scores.shape[2:])])
            return
        targets = [Box(0, 0, *prepared.original)] if self.at_original else boxes
        count, queries, size = len(scores), scores.shape[1], targets[0].size
        step = max(self._chunk // (count * size[0] * size[1]), 1)
        for start in range(0, queries, step):
            chunk = self.method.window_scores(scores[:, start : start + step], size, prepared.pad)
            chunk = expect(chunk, (len(scores), None, *size), self.method, "window_scores")
            if self.refine_windows is not None:
                chunk = self._refined(chunk, cut(prepared.resized, boxes, Pad(0, 0, 0, 0)))
            rows = slice(start, start + chunk.shape[1])
            prepared.note("window_scores", Fragment(chunk, (slice(None), rows), (count, queries, *size)))
            mean.add(chunk, targets, start, queries)

    @property
    def _chunk(self) -> int:
        return CHUNK_CPU if self.device.type == "cpu" else CHUNK_GPU

    def _refined(self, scores: Tensor, guides: Tensor) -> Tensor:
        """Refine window scores (B, Q, h, w) along the edges of their windows (B, 3, h', w')."""
        pamr, size = self.refine_windows, tuple(scores.shape[-2:])
        return torch.stack(
            [pamr.refine(s, pamr.weights(enlarge(g, size))) for s, g in zip(scores, guides, strict=True)]
        )

    def _adjusted(self, prepared: WindowedImage, merged: Tensor, queries: Queries) -> Tensor:
        """Return merged scores (Q, h, w) as the method adjusts them."""
        prepared.note("merged_scores", merged)
        if not self.adjusts:
            return merged
        rows = len(merged) if self.by_queries else None  # a method with its own probabilities may merge queries
        adjusted = expect(self.method.adjust(merged, queries, prepared), (rows, None, None), self.method, "adjust")
        prepared.note("adjusted_scores", adjusted)
        return adjusted

    def _decide(self, prepared: WindowedImage, merged: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Return the label map int32 (H, W) of merged scores (Q, h, w)."""
        if self.refine is None and self.method.pixelwise:
            labels = self._by_tiles(prepared, merged, queries, decision)
        else:
            labels = self._by_maps(prepared, merged, queries, decision)
        prepared.note("labels_raw", labels)
        labels = self.method.refine_labels(labels, prepared.regions)
        labels = expect(labels, prepared.original, self.method, "refine_labels", floating=False)
        prepared.note("labels", labels)
        return labels.to(torch.int32)

    def _probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        given = self.method.probabilities(scores, queries, decision)
        return expect(given, (None, *scores.shape[1:]), self.method, "probabilities")

    def _by_tiles(self, prepared: WindowedImage, merged: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Return labels int64 (H, W), computed from one tile of the original size at a time."""
        labels = torch.empty(prepared.original, dtype=torch.int64, device=merged.device)
        for tile in enlarged_tiles(merged, prepared.original, tile_elements(merged.device)):
            position = (tile.rows, tile.columns)
            size = (len(merged), *prepared.original)
            prepared.note("full_scores", Fragment(tile.values, (slice(None), *position), size))
            if self.by_queries:
                labels[position] = Leading(queries.class_index, decision).add(tile.values).labels()
                continue
            probabilities = self._probabilities(tile.values, queries, decision)
            size = (len(probabilities), *prepared.original)
            prepared.note("probabilities", Fragment(probabilities, (slice(None), *position), size))
            labels[position] = decide(probabilities, decision)
        return labels

    def _by_maps(self, prepared: WindowedImage, merged: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Return labels int64 (H, W) where scores are needed at full size, some queries at a time if possible.

        This is for scores that are refined, and for methods that look at more than one pixel.
        """
        if self.by_queries:
            leading = Leading(queries.class_index, decision)
            for _, chunk in self._full_scores(prepared, merged):
                leading.add(chunk)
            return leading.labels()
        full = merged.new_empty((len(merged), *prepared.original))
        for rows, chunk in self._full_scores(prepared, merged):
            full[rows] = chunk
        probabilities = self._probabilities(full, queries, decision)
        prepared.note("probabilities", probabilities)
        return decide(probabilities, decision)

    def _full_scores(self, prepared: WindowedImage, merged: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield some queries at a time with their scores (K, H, W) at the original size, refined if necessary."""
        size = prepared.original
        weights = None if self.refine is None else self.refine.weights(enlarge(prepared.resized, size))
        step = max(self._chunk // (size[0] * size[1]), 1)
        for start in range(0, len(merged), step):
            full = enlarge(merged[start : start + step], size)
            rows = slice(start, start + len(full))
            prepared.note("full_scores", Fragment(full, (rows,), (len(merged), *size)))
            if weights is not None:
                full = self.refine.refine(full, weights)
                prepared.note("refined_scores", Fragment(full, (rows,), (len(merged), *size)))
            yield rows, full
