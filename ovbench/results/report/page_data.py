"""What the page's scripts read: one JSON document per run, one per image and one per picture.

Numbers of images and label maps are packed: little-endian integers, deflated, in base64.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ovbench.inference.visualize import palette
from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.interval import iou_intervals, stack_counts
from ovbench.results.report.pictures import Picture, Scene
from ovbench.results.report.ranking import Images, confusions
from ovbench.results.report.runs import Run

DIGITS = 6


def run_data(run: Run, order: Sequence[int], ranked: Images, pictures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Classes, confusions and images of a run, the images in ``order``; ``pictures`` by image id."""
    record, classes = run.record, run.classes
    bounds = iou_intervals(stack_counts(run.counts, len(classes)))
    counts = [run.counts[n] for n in order]
    return {
        "classes": classes,
        "colours": ["#" + bytes(colour).hex() for colour in palette(len(classes)).tolist()],
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
            **{name: _numbers(getattr(ranked, name)[list(order)]) for name in Images._fields},
            "cells": pack_cells(counts),
        },
        "pictures": pictures,
    }


def picture_data(picture: Picture, scene: str) -> dict[str, Any]:
    """A picture; ``scene`` is the id of the element that holds its image and truth."""
    h, w = picture.predicted.shape
    return {"scene": scene, "height": h, "width": w, "prediction": pack(picture.predicted.astype("<u2")),
            "moved": picture.moved, "pixels": picture.pixels}  # fmt: skip


def scene_data(scene: Scene) -> dict[str, str]:
    return {"image": base64.b64encode(scene.jpeg).decode(), "truth": pack(scene.truth.astype("<u2"))}


def pack_cells(counts: Sequence[PixelCounts]) -> str:
    """u32[n + 1] where the cells of each image begin, then of all cells u32 pixels, u16 labels, u16 predictions."""
    starts = np.cumsum([0, *(len(one.pixels) for one in counts)]).astype("<u4")
    kinds = (("pixels", "<u4"), ("label", "<u2"), ("predicted", "<u2"))
    columns = [_joined((getattr(one, name) for one in counts), kind) for name, kind in kinds]
    return pack(starts, *columns)


def _joined(parts: Iterable[np.ndarray], kind: str) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *parts]).astype(kind)


def pack(*arrays: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(b"".join(array.tobytes() for array in arrays), 9)).decode()


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_rounded(value) for value in values.tolist()]


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, DIGITS)
