"""Compute one label per pixel of the original image from merged window scores.

`LabelMaps` computes the labels of an image in one of three equivalent forms, which differ by rounding only. By maps:
`class_probabilities`, then `decide`, for methods with their own probabilities. By queries: `Leading` keeps the best
query of each pixel while some queries are added at a time, so that not all maps are in memory. By cells, for large
vocabularies: `WindowCells` keeps the scores of cells, which are few.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ovbench.inference.leading import BestClass, Leading, or_background
from ovbench.inference.pamr import PAMR
from ovbench.inference.window_cells import WindowCells
from ovbench.inference.windowed_image import Fragment
from ovbench.methods.base import Method, Queries, WindowedImage
from ovbench.methods.bilinear import enlarge, enlarged_tiles
from ovbench.methods.method_errors import expect
from ovbench.methods.ops import Decision, largest
from ovbench.methods.propagation import Propagation

# Elements of a tile: small enough for the cache of a CPU, large enough for few launches on a GPU.
TILE_CPU, TILE_GPU = 1 << 18, 1 << 26
CHUNK_CPU, CHUNK_GPU = 1 << 20, 1 << 28  # elements of the maps of some queries that are in memory at once


def tile_elements(device: torch.device, parts: int = 1) -> int:
    """Return the number of elements of a tile, divided by ``parts`` if memory is short."""
    return (TILE_CPU if device.type == "cpu" else TILE_GPU) // parts


def chunk_elements(device: torch.device, parts: int = 1) -> int:
    """Return the number of elements of the maps of some queries, divided by ``parts`` if memory is short."""
    return (CHUNK_CPU if device.type == "cpu" else CHUNK_GPU) // parts


def decide(probabilities: Tensor, decision: Decision) -> Tensor:
    """Return the most probable class of each pixel, or the background if no class reaches the threshold.

    Args:
        probabilities: float (C, ...).
        decision: Threshold and background.

    Returns:
        int64 (...).
    """
    best, labels = largest(probabilities)
    return or_background(labels, best, decision)


class LabelMaps:
    """Computes the label map of an image from its merged scores.

    Attributes:
        method: The method.
        refine: PAMR at the original size, or None.
        parts: Divisor of the sizes of chunks and tiles, above 1 if memory is short.
        propagation: PEARL's propagation of the merged scores, or None.
        adjusts: Whether the method or the propagation changes merged scores.
        by_queries: Whether the method has the default class probabilities, so that `Leading` can be used.
        confident: Whether listeners get the `BestClass` of every image, which calibration needs.
        by_pixels: Whether a label depends on the scores of its pixel only.
    """

    def __init__(self, method: Method, refine: PAMR | None, propagation: Propagation | None = None):
        self.method, self.refine, self.parts, self.confident = method, refine, 1, False
        self.propagation = propagation
        self.adjusts = propagation is not None or type(method).adjust is not Method.adjust
        self.by_queries = type(method).probabilities is Method.probabilities
        self.by_pixels = refine is None and method.pixelwise

    def adjusted(self, prepared: WindowedImage, merged: Tensor | WindowCells, queries: Queries) -> Tensor | WindowCells:
        """Return merged scores float (Q, h, w) as the method adjusts them; the cells of all windows are unchanged."""
        if isinstance(merged, WindowCells):
            return merged
        prepared.note("merged_scores", merged)
        if not self.adjusts:
            return merged
        rows = len(merged) if self.by_queries else None  # a method with its own probabilities may merge queries
        adjust = self.propagation or self.method.adjust
        adjusted = expect(adjust(merged, queries, prepared), (rows, None, None), self.method, "adjust")
        prepared.note("adjusted_scores", adjusted)
        return adjusted

    def labels(
        self, prepared: WindowedImage, merged: Tensor | WindowCells, queries: Queries, decision: Decision
    ) -> Tensor:
        """Return the label map int32 (H, W) of merged scores float (Q, h, w), or of the cells of all windows."""
        if isinstance(merged, WindowCells):
            labels = self._by_cells(prepared, merged, queries, decision)
        elif self.by_pixels:
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

    def _by_cells(self, prepared: WindowedImage, merged: WindowCells, queries: Queries, decision: Decision) -> Tensor:
        """Return labels int64 (H, W) from the cells of all windows."""
        best = BestClass.empty(prepared.original, merged.cells) if self.confident else None
        elements = tile_elements(merged.cells.device, self.parts)
        labels = merged.labels(queries.class_index, decision, elements, best, compiled=self.method.compiled)
        if best is not None:
            prepared.note("best_class", best)
        return labels

    def _by_tiles(self, prepared: WindowedImage, merged: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Return labels int64 (H, W), computed from one tile of the original size at a time."""
        labels = torch.empty(prepared.original, dtype=torch.int64, device=merged.device)
        best = BestClass.empty(prepared.original, merged) if self.confident else None
        for tile in enlarged_tiles(merged, prepared.original, tile_elements(merged.device, self.parts)):
            position = (tile.rows, tile.columns)
            size = (len(merged), *prepared.original)
            prepared.note("full_scores", Fragment(tile.values, (slice(None), *position), size))
            if self.by_queries:
                leading = Leading(queries.class_index, decision, confident=self.confident).add(tile.values)
                labels[position] = leading.labels()
                if best is not None:
                    best.label[position], best.probability[position] = leading.best()
                continue
            probabilities = self._probabilities(tile.values, queries, decision)
            size = (len(probabilities), *prepared.original)
            prepared.note("probabilities", Fragment(probabilities, (slice(None), *position), size))
            labels[position] = decide(probabilities, decision)
            if best is not None:
                best.probability[position], best.label[position] = largest(probabilities)
        if best is not None:
            prepared.note("best_class", best)
        return labels

    def _by_maps(self, prepared: WindowedImage, merged: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Return labels int64 (H, W) from scores at full size, some queries at a time if possible.

        This is for refined scores, and for methods that use more than one pixel at a time.
        """
        if self.by_queries:
            leading = Leading(queries.class_index, decision, confident=self.confident)
            for _, chunk in self._full_scores(prepared, merged):
                leading.add(chunk)
            if self.confident:
                prepared.note("best_class", leading.best())
            return leading.labels()
        full = merged.new_empty((len(merged), *prepared.original))
        for rows, chunk in self._full_scores(prepared, merged):
            full[rows] = chunk
        probabilities = self._probabilities(full, queries, decision)
        prepared.note("probabilities", probabilities)
        if self.confident:
            prepared.note("best_class", BestClass(*reversed(largest(probabilities))))
        return decide(probabilities, decision)

    def _full_scores(self, prepared: WindowedImage, merged: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield some queries at a time with their scores (K, H, W) at the original size, refined if necessary."""
        size = prepared.original
        weights = None if self.refine is None else self.refine.weights(enlarge(prepared.resized, size))
        step = max(chunk_elements(merged.device, self.parts) // (size[0] * size[1]), 1)
        for start in range(0, len(merged), step):
            full = enlarge(merged[start : start + step], size)
            rows = slice(start, start + len(full))
            prepared.note("full_scores", Fragment(full, (rows,), (len(merged), *size)))
            if weights is not None:
                full = self.refine.refine(full, weights)
                prepared.note("refined_scores", Fragment(full, (rows,), (len(merged), *size)))
            yield rows, full
