"""JSON documents for the scripts of the page: one per run, one per image, one per label map of a run.

Long arrays are packed: little-endian integers, compressed with zlib, in base64.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ovbench.data.palettes import benchmark_palette
from ovbench.inference.visualize import palette
from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.interval import iou_intervals
from ovbench.metrics.stacked import stack_counts
from ovbench.results.report.error_images import ErrorImage, InputImage
from ovbench.results.report.ranking import ImageScores, confusions
from ovbench.results.report.runs import ReportRun

DIGITS = 6


def run_data(
    run: ReportRun, order: Sequence[int], ranked: ImageScores, pictures: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return classes, confusions and images of a run.

    Args:
        run: The run.
        order: Numbers of its images, in the order of the page.
        ranked: Scores of its images.
        pictures: Entries of the shown images, by image id.
    """
    record, classes = run.record, run.classes
    bounds = iou_intervals(stack_counts(run.counts, len(classes)))
    counts = [run.counts[n] for n in order]
    return {
        "classes": classes,
        "colours": ["#" + bytes(colour).hex() for colour in _colours(run)],
        "perClass": {
            "iou": [_rounded(row["iou"]) for row in record["per_class"]],
            "acc": [_rounded(row["acc"]) for row in record["per_class"]],
            "low": _numbers(bounds[:, 0]),
            "high": _numbers(bounds[:, 1]),
            "labelled": record["counts"]["labelled"],
            "predicted": record["counts"]["predicted"],
        },
        "confusions": [[p.label, p.predicted, p.pixels, _rounded(p.share)] for p in confusions(counts, len(classes))],
        "images": {
            "ids": [run.ids[n] for n in order],
            **{name: _numbers(getattr(ranked, name)[list(order)]) for name in ImageScores._fields},
            "cells": pack_cells(counts),
        },
        "pictures": pictures,
        "files": [run.files.get(run.ids[n]) for n in order] if run.files else [],
    }


def _colours(run: ReportRun) -> list[Any]:
    """Return the colours of the benchmark's own tools, otherwise distinct ones."""
    own = run.record["dataset"].get("card", "ovbench") == "own"
    usual = None if own else benchmark_palette(run.record["cell"]["dataset"], len(run.classes))
    return usual or palette(len(run.classes)).tolist()


def prediction_data(image: ErrorImage, input_id: str) -> dict[str, Any]:
    """Return the prediction of an image; ``input_id`` is the element with the image and its labels."""
    h, w = image.predicted.shape
    sure = {} if image.confidence is None else {"confidence": pack(image.confidence)}
    return {"input": input_id, "height": h, "width": w, "prediction": pack(image.predicted.astype("<u2")),
            "moved": image.moved, "pixels": image.pixels, **sure}  # fmt: skip


def input_data(image: InputImage) -> dict[str, str]:
    """Return an image and its labels."""
    return {"image": base64.b64encode(image.jpeg).decode(), "truth": pack(image.truth.astype("<u2"))}


def pack_cells(counts: Sequence[PixelCounts]) -> str:
    """Pack the counts of N images with M cells in total.

    Returns:
        Packed uint32 (N + 1,) starts of each image, uint32 (M,) pixels, uint16 (M,) labels, uint16 (M,) predictions.
    """
    starts = np.cumsum([0, *(len(one.pixels) for one in counts)]).astype("<u4")
    kinds = (("pixels", "<u4"), ("label", "<u2"), ("predicted", "<u2"))
    columns = [_joined((getattr(one, name) for one in counts), kind) for name, kind in kinds]
    return pack(starts, *columns)


def _joined(parts: Iterable[np.ndarray], kind: str) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *parts]).astype(kind)


def pack(*arrays: np.ndarray) -> str:
    """Pack arrays one after another, see the docstring of this module."""
    return base64.b64encode(zlib.compress(b"".join(array.tobytes() for array in arrays), 9)).decode()


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_rounded(value) for value in values.tolist()]


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, DIGITS)
