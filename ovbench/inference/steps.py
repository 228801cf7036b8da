"""The steps of one image through a method: resize, windows, features, scores, merged scores, labels."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovbench.backbones.normalization import per_channel
from ovbench.backbones.preprocess import Normalisation
from ovbench.config.load import Protocol
from ovbench.inference.decision import LabelMaps, chunk_elements
from ovbench.inference.device_labels import DeviceLabels, not_finite
from ovbench.inference.pamr import PAMR
from ovbench.inference.sliding_window import WindowMean, cut, pad_to_multiple, window_grid
from ovbench.inference.window_cells import WindowCells, worth_cells
from ovbench.inference.windowed_image import Fragment, pad_region
from ovbench.methods.base import Batch, Method, Note, Queries, WindowedImage, no_note
from ovbench.methods.bilinear import enlarge
from ovbench.methods.method_errors import check_features, expect
from ovbench.methods.ops import Box, Decision, Pad
from ovbench.methods.params import PEARLParams
from ovbench.methods.propagation import Propagation
from ovbench.regions.ids import resized_ids
from ovbench.utils.errors import InputError, UsageError, warn_once
from ovbench.utils.images import resize_image, resized_size
from ovbench.utils.upload import upload

PAD_TO_PATCH = -1  # value of ``pad``: windows are padded to the patch size of the tower that encodes the queries
MOST_PARTS = 1 << 12
Merged = WindowMean | WindowCells


def pad_multiple(protocol: Protocol, patch: int) -> int:
    """Return the number of pixels to whose multiple windows are padded, 0 for none, with a tower of this patch."""
    return patch if protocol.pad == PAD_TO_PATCH else protocol.pad


def refuse_small_crop(protocol: Protocol, patch: int, where: str = "") -> None:
    """Raise UsageError if the padded windows of a protocol are smaller than a patch.

    Args:
        protocol: The protocol.
        patch: Side of a patch in pixels, 0 if it is not known.
        where: What has this protocol, for the message.
    """
    crop = protocol.crop
    if crop and crop + -crop % (pad_multiple(protocol, patch) or 1) < patch:
        raise UsageError(
            f"windows of crop = {crop} pixels are smaller than a patch of {patch} pixels", where=where,
            fix=f"set crop to at least {patch}, or to 0 for whole images",
        )  # fmt: skip


def propagation(method: Method, protocol: Protocol) -> Propagation | None:
    """Return PEARL's propagation if the protocol refines scores with it; UsageError if the method has no cosines."""
    if protocol.refine != "tlp":
        return None
    if not method.scores_cosines or type(method).adjust is not Method.adjust:
        raise UsageError(
            f"refine=tlp needs the cosines of a method, which {type(method).__name__} does not leave", where="tlp",
            fix='give another method, or refine="pamr"',
        )  # fmt: skip
    return Propagation(PEARLParams(grid=protocol.tlp_grid))


class Limits(NamedTuple):
    """Limits of what is computed at once.

    Attributes:
        windows: Windows of a single image that are encoded or scored together.
        parts: Divisor of the sizes of chunks and tiles.
    """

    windows: int = 16
    parts: int = 1

    def smaller(self) -> Limits | None:
        """Return smaller limits, for use after memory ran out; None if there are none."""
        return None if self.parts >= MOST_PARTS else Limits(max(self.windows // 2, 1), self.parts * 8)


class Steps:
    """The steps of a method with its protocol, for one or several vocabularies, on the device of the method.

    The steps of an image are `prepare`, `with_context`, `encode` for batches of its windows, `join` if the method looks
    at all windows together, `score`, and `finish`. `ovbench.inference.batching` calls them in this order.
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
        self.patch = getattr(tower, "patch", 0)  # 0 for a tower of a third party, whose patch is not known
        self.pad_multiple = pad_multiple(protocol, self.patch)
        refuse_small_crop(protocol, self.patch)
        pamr = PAMR(protocol.pamr_iterations, protocol.pamr_dilations)
        self.maps = LabelMaps(method, pamr if protocol.refine == "pamr" else None, propagation(method, protocol))
        self.refine_windows = pamr if protocol.refine == "pamr-windows" else None
        self.whole = protocol.crop == 0
        self.merges_probabilities = protocol.merge == "probabilities"
        self.at_original = self.whole and method.enlarges_once and not self.maps.adjusts
        # cell scores can then be enlarged tile by tile in the decision
        self.as_cells = (
            self.at_original
            and self.refine_windows is None
            and type(method).window_scores is Method.window_scores
            and not self.merges_probabilities
        )
        self.keeps_cells = (
            method.best_query_wins and self.maps.by_pixels and not self.maps.adjusts and self.refine_windows is None
            and type(method).window_scores is Method.window_scores and not self.merges_probabilities
        )  # fmt: skip
        self.limits = Limits()
        self.seconds: dict[str, float] = {}

    def add_vocabulary(self, queries: Queries, protocol: Protocol) -> None:
        """Add a vocabulary, which is scored from the same features.

        Args:
            queries: Embeddings of the vocabulary.
            protocol: A protocol; only its ``logit_scale`` and ``prob_thd`` are used.
        """
        decision = Decision(
            protocol.logit_scale, protocol.prob_thd, queries.background, protocol.merge == "probabilities"
        )
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
        """Add the time of a stage; on a GPU, the time to queue the work; `Prediction.labels` waits for it."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return an image uint8 (H, W, 3) at the size of the protocol, uint8 (h, w, 3); on the host, in any thread."""
        size = resized_size(image.shape[:2], self.protocol.short_side, self.protocol.long_side)
        return resize_image(image, size, self.protocol.resize)

    def prepare(
        self, image: np.ndarray, regions: np.ndarray | None = None, note: Note = no_note,
        resized: np.ndarray | None = None,
    ) -> WindowedImage:  # fmt: skip
        """Resize an image and divide it into windows.

        Args:
            image: uint8 (H, W, 3), RGB, at its original size.
            regions: int32 (H, W), the region map, for methods that need one.
            note: Called with intermediate quantities.
            resized: What `resize` has returned for the image, if it was called before.
        """
        with self.stage("resize"):
            resized = self.resize(image) if resized is None else resized
            return self.windowed(resized, image.shape[:2], regions, note, pixels=image)

    @torch.inference_mode()
    def windowed(
        self,
        resized: np.ndarray,
        original: tuple[int, int],
        regions: np.ndarray | None = None,
        note: Note = no_note,
        pixels: np.ndarray | None = None,
    ) -> WindowedImage:
        """Copy a resized image to the device and divide it into windows.

        Args:
            resized: uint8 (h, w, 3), RGB, resized by the protocol.
            original: Size (H, W) before resizing.
            regions: int32 (H, W), the region map, for methods that need one.
            note: Called with intermediate quantities.
            pixels: uint8 (H, W, 3), RGB, the image before resizing, for methods that need it.

        Raises:
            InputError: If the image has windows smaller than a patch.
            UsageError: If the method needs the image before resizing and it is not given.
        """
        self.vocabularies = [queries.to(self.device) for queries in self.vocabularies]
        size = resized.shape[:2]
        boxes = window_grid(size, self.protocol.crop, self.protocol.stride)
        pad = pad_to_multiple(boxes[0].size, 0 if self.whole else self.pad_multiple)  # a whole image is never padded
        height, width = (side + sum(added) for side, added in zip(boxes[0].size, (pad[2:], pad[:2]), strict=True))
        if self._is_below_patch(min(height, width)):
            raise InputError(
                f"the image has windows of {width}x{height} pixels, less than a patch of {self.patch} pixels",
                fix="exclude the image, or set pad or a larger short_side",
            )
        map_ = None if regions is None else self._upload(regions).long()
        resized_map = None if regions is None else self._upload(resized_ids(regions, size)).long()
        seen = None
        if self.method.needs.original:
            if pixels is None:
                raise UsageError(f"{type(self.method).__name__} needs the image at its original size")
            seen = self._upload(pixels)
        note("windows", boxes)
        note("pad", pad)
        note("resized_regions", resized_map)
        image = self._normalise(resized)
        return WindowedImage(
            image, original, boxes, pad, seen, map_, resized_map, regions, pad_region(regions), None, note
        )

    def _is_below_patch(self, side: int) -> bool:
        return side < self.patch

    def _normalise(self, image: np.ndarray) -> Tensor:
        pixels = self._upload(image).permute(2, 0, 1).float()
        mean, std = (per_channel(tuple(values), pixels) for values in (self.protocol.mean, self.protocol.std))
        return (pixels - mean) / std

    def _upload(self, values: np.ndarray) -> Tensor:
        return upload(values, self.device)

    @torch.inference_mode()
    def with_context(self, prepared: WindowedImage) -> WindowedImage:
        """Return the image with the context that the method computes once per image."""
        with self.stage("encode"):
            return prepared._replace(context=self.method.encode_image(prepared))

    @torch.inference_mode()
    def encode(self, batch: Batch) -> Any:
        """Return the method's features of a batch, checked."""
        batch.note("batch_windows", batch.windows)
        features = self.method.encode(batch)
        if type(self.method).score is Method.score and not self.method.needs.join:
            check_features(features, len(batch.windows), self.method)
        batch.note("features", features)
        return features

    @torch.inference_mode()
    def join(self, prepared: WindowedImage, features: Any) -> Any:
        """Return the joined features of all windows of an image, checked."""
        with self.stage("join"):
            joined = self.method.join(features, prepared)
        if type(self.method).score is Method.score:
            count = 1 if self.method.needs.join == "image" else len(prepared.boxes)
            check_features(joined, count, self.method, "join")
        prepared.note("joined", joined)
        return joined

    def means(self, prepared: WindowedImage) -> list[WindowMean]:
        """Return an empty `WindowMean` per vocabulary.

        It has the resized size of the image. For an image without windows whose cell scores are enlarged once, it has
        the original size, or the size of the cells until the decision.
        """
        size = prepared.original if self.at_original else prepared.size
        return [WindowMean(None if self.as_cells else size) for _ in self.vocabularies]

    def _merged(self, prepared: WindowedImage, boxes: list[Box], scores: Tensor) -> Merged:
        """Return what windows with cell scores (B, Q, gh, gw) are added to: a mean, or cells for a large vocabulary."""
        size = prepared.original if self.at_original else prepared.size
        if self.keeps_cells and worth_cells(scores, boxes[0].size):
            if self.at_original:
                return WindowCells([Box(0, 0, *size)], Pad(0, 0, 0, 0), size, size)
            return WindowCells(boxes if len(boxes) == 1 else prepared.boxes, prepared.pad, size, prepared.original)
        return self.means(prepared)[0]

    @torch.inference_mode()
    def score(self, prepared: WindowedImage, means: list[Merged | None], features: Any, boxes: list[Box]) -> None:
        """Score some windows and add the scores to the means of their image.

        Args:
            prepared: The image.
            means: One per vocabulary; for None, the first windows decide whether it is a mean or cells.
            features: Features from `encode` or `join`.
            boxes: The windows of these features.
        """
        if self.method.needs.join == "image":
            boxes, prepared = [Box(0, 0, *prepared.size)], prepared._replace(pad=Pad(0, 0, 0, 0))
        with self.stage("score"):
            for number, (queries, decision) in enumerate(zip(self.vocabularies, self.decisions, strict=True)):
                scores = expect(
                    self.method.score(features, queries), (len(boxes), None, None, None), self.method, "score"
                )
                prepared.note("patch_scores", scores)
                mean = means[number] = means[number] or self._merged(prepared, boxes, scores)
                self._add_scores(prepared, boxes, scores, mean, decision)

    @torch.inference_mode()
    def finish(self, prepared: WindowedImage, means: list[Merged]) -> DeviceLabels:
        """Compute the labels of an image after all of its windows are scored.

        Returns:
            The label maps, one per vocabulary.
        """
        self.maps.parts = self.limits.parts
        with self.stage("decide"):
            merged = [
                self.maps.adjusted(prepared, mean.result(), queries)
                for mean, queries in zip(means, self.vocabularies, strict=True)
            ]
            finite = [scores.sum().isfinite() for scores in merged]
            if self.device.type == "cpu" and not all(finite):  # elsewhere the host would wait
                raise not_finite(self.method)
            labels = [
                self.maps.labels(prepared, scores, queries, decision).int()
                for scores, queries, decision in zip(merged, self.vocabularies, self.decisions, strict=True)
            ]
            marked = [map_.where(sound, -1) for map_, sound in zip(labels, finite, strict=True)]
            return DeviceLabels(marked, self.method)

    def _add_scores(
        self, prepared: WindowedImage, boxes: list[Box], scores: Tensor, mean: Merged, decision: Decision
    ) -> None:
        """Add cell scores (B, Q, gh, gw) to the mean, some queries at a time to limit memory."""
        if isinstance(mean, WindowCells):
            mean.add(scores, [Box(0, 0, *prepared.original)] if self.at_original else boxes)
            return
        if self.as_cells:
            mean.add(scores, [Box(0, 0, *scores.shape[2:])])
            return
        targets = [Box(0, 0, *prepared.original)] if self.at_original else boxes
        if self.merges_probabilities:
            self._add_probabilities(prepared, boxes, targets, scores, mean, decision)
            return
        count, queries, size = len(scores), scores.shape[1], targets[0].size
        step = max(chunk_elements(self.device, self.limits.parts) // (count * size[0] * size[1]), 1)
        for start in range(0, queries, step):
            chunk = self._window_scores(prepared, boxes, scores[:, start : start + step], size)
            rows = slice(start, start + chunk.shape[1])
            prepared.note("window_scores", Fragment(chunk, (slice(None), rows), (count, queries, *size)))
            mean.add(chunk, targets, start, queries)

    def _add_probabilities(
        self, prepared: WindowedImage, boxes: list[Box], targets: list[Box], scores: Tensor, mean: WindowMean,
        decision: Decision,
    ) -> None:  # fmt: skip
        """Add the softmax over all queries of one window at a time."""
        for number, target in enumerate(targets):
            one = slice(number, number + 1)
            window = self._window_scores(prepared, boxes[one], scores[one], target.size)
            window = (window * decision.logit_scale).softmax(1)
            size = (len(scores), *window.shape[1:])
            prepared.note("window_probabilities", Fragment(window, (one,), size))
            mean.add(window, [target])

    def _window_scores(
        self, prepared: WindowedImage, boxes: list[Box], scores: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Return cell scores (B, Q, gh, gw) at the size of the windows, refined if necessary."""
        found = self.method.window_scores(scores, size, prepared.pad)
        found = expect(found, (len(scores), None, *size), self.method, "window_scores")
        if self.refine_windows is not None:
            guides = cut(prepared.resized, boxes, Pad(0, 0, 0, 0))
            found = self.refine_windows.refine_windows(found, enlarge(guides, size))
        return found
