"""Helpers of the adapters: the protocol of a case, and a run with the predictor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ovbench.config.load import Protocol
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Method, Queries
from ovbench.methods.ops import class_probabilities
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.utils.images import resize_image, resized_size

Values = dict[str, Callable[[int | None], Any]]


def protocol(case: Case) -> Protocol:
    """Return the official settings of a case as a protocol."""
    p = case.params
    long_side, short_side = (p.get("resize") or {}).get("scale", (2048, 0))
    return Protocol(
        short_side=short_side,
        long_side=long_side,
        crop=p["slide_crop"],
        stride=p["slide_stride"],
        pad=p.get("pad_multiple", 0),
        mean=tuple(p["mean"]),
        std=tuple(p["std"]),
        logit_scale=p.get("logit_scale", 1.0),  # FreeCP takes it from the weights
        prob_thd=p.get("prob_thd") or 0.0,
        refine="pamr" if p.get("pamr_steps") else "",
        pamr_iterations=p.get("pamr_steps") or 0,
        pamr_dilations=tuple(p.get("pamr_stride", (8, 16))),
    )


def label(case: Case, method: Method, queries: Queries | None = None) -> Recorder:
    """Label the image of a case with the predictor and return its notes."""
    if queries is None:
        text, index = torch.from_numpy(case.inputs["text"]).float(), torch.tensor(case.class_index())
        queries = Queries(text, index, background(case))
    predictor = Predictor(method, protocol(case), [queries])
    image = case.inputs["image"]
    size = resized_size(image.shape[:2], predictor.protocol.short_side, predictor.protocol.long_side)
    resized = case.inputs.get("image_resized")
    notes = Recorder()
    ours = resize_image(image, size)
    notes("resized_image", ours)
    resized = ours if resized is None else resized
    predictor.label_resized(resized, image.shape[:2], case.inputs.get("masks"), note=notes, pixels=image)
    if "probabilities" not in notes.notes:  # the predictor did not need them: compute them from the scores
        scores = notes.once("refined_scores" if predictor.maps.refine else "full_scores")
        notes("probabilities", class_probabilities(scores, queries.class_index, predictor.decisions[0]))
    return notes


def background(case: Case) -> int | None:
    """Return the class of pixels below a threshold: the official code uses 0."""
    return 0 if case.params.get("prob_thd") or case.params.get("area_thd") else None


def window_scores(notes: Recorder, w: int | None) -> Tensor:
    """Return the scores of a window at its size, or of the image at its original size if it has no windows."""
    return notes.window("window_scores", w) if "window_scores" in notes.notes else notes.once("full_scores")


def common_values(notes: Recorder) -> Values:
    """Return the stages that all methods have."""
    return {
        "resized_image": lambda w: notes.once("resized_image"),
        "windows": lambda w: notes.once("windows"),
        "labels_raw": lambda w: notes.once("labels_raw"),
        "labels": lambda w: notes.once("labels"),
    }
