"""From a case to a run of ours: official parameter names to our parameters, and stages to what our methods note."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovbench.config import Protocol
from ovbench.engine.labeller import Labeller, resize_image, resized_size
from ovbench.errors import InputError
from ovbench.methods.base import Batch, Method, Queries
from ovbench.methods.clip import CLIP
from ovbench.methods.corrclip import CorrCLIP, CorrCLIPParams
from ovbench.methods.maskclip import MaskCLIP, MaskCLIPParams
from ovbench.parity.case import Case
from ovbench.parity.record import Recorder
from ovbench.parity.towers import backbones

Values = dict[str, Callable[[int | None], Any]]


def protocol(case: Case) -> Protocol:
    """The official settings of a case as ours."""
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
        logit_scale=p["logit_scale"],
        prob_thd=p.get("prob_thd", 0.0),
    )


def run(case: Case) -> dict[str, Callable[[int | None], Any]]:
    """Run the method of a case on its inputs; what it computed, as functions of a window number, by stage name."""
    if case.method not in ADAPTERS:
        raise InputError(
            f'no parity check for the method "{case.method}" in this version',
            where=str(case.folder),
            fix="known: " + ", ".join(sorted(ADAPTERS)),
        )
    torch.manual_seed(0)
    try:
        return ADAPTERS[case.method](case)
    except KeyError as error:
        raise InputError(f"the case lacks {error}", where=str(case.folder)) from error


def _label(case: Case, method: Method) -> Recorder:
    """Label the case's image through the ordinary engine and keep what was noted on the way."""
    queries = Queries(torch.from_numpy(case.inputs["text"]).float(), torch.tensor(case.class_index()))
    labeller = Labeller(method, protocol(case), [queries])
    image = case.inputs["image"]
    size = resized_size(image.shape[:2], labeller.protocol.short_side, labeller.protocol.long_side)
    resized = case.inputs.get("image_resized")
    notes = Recorder()
    ours = resize_image(image, size)
    notes("resized_image", ours)
    labeller.label_resized(
        ours if resized is None else resized, image.shape[:2], case.inputs.get("masks"), note=notes
    )
    return notes


def _shared_values(notes: Recorder) -> Values:
    return {
        "resized_image": lambda w: notes.once("resized_image"),
        "windows": lambda w: notes.once("windows"),
        "labels_raw": lambda w: notes.once("labels_raw"),
        "labels": lambda w: notes.once("labels"),
    }


def corrclip(case: Case) -> Values:
    p = case.params
    if p.get("MIN_SAMPLES", 1) != 1:
        raise InputError("mask merging is defined for MIN_SAMPLES 1 only", where=str(case.folder))
    params = CorrCLIPParams(
        tau=1 / p["TAU"], eps=p["EPS"], alpha=p["ALPHA"], beta=p["BETA"], spatial_depth=p.get("NUM_SPATIAL")
    )
    notes = _label(case, CorrCLIP(backbones(case), params))
    at = notes.window

    def mct(w: int | None) -> Tensor:
        return at("mct", w)[: int(at("mct_count", w))]

    direct = ("dino_feats", "masks_dino", "masks_merged", "masks_token", "main_tokens", "spatial_tokens", "branches")
    renamed = {
        "similarity_rows": "similarity", "scope_rows": "scope", "attn_rows": "attn",
        "patch_feats": "features", "low_logits": "patch_scores", "window_logits": "window_scores",
    }  # fmt: skip
    values: Values = {name: lambda w, n=name: at(n, w) for name in direct}
    values |= {stage: lambda w, n=name: at(n, w) for stage, name in renamed.items()}
    values |= {
        "scope_count": lambda w: at("scope", w).sum(-1),
        "mct": mct,
        "seg_logits": lambda w: notes.once("full_scores"),
        "probs": lambda w: notes.once("probabilities"),
    }
    return values | _shared_values(notes)


def _baseline(case: Case, method: Method) -> tuple[Recorder, Values]:
    """The stages that the parity cases of all one-block methods share."""
    notes = _label(case, method)
    at = notes.window

    def logits(w: int | None) -> Tensor:
        return at("patch_scores", w).flatten(1).T

    values: Values = {
        "w_tokens_before_last": lambda w: at("tokens_before_last", w),
        "w_patch_feature": lambda w: torch.nn.functional.normalize(at("features", w), dim=-1),
        "w_patch_logits": logits,
        "w_window_logits": lambda w: at("window_scores", w),
        "logits_full": lambda w: notes.once("full_scores"),
        "scores": lambda w: notes.once("probabilities"),
    }
    return notes, values | _shared_values(notes)


def maskclip(case: Case) -> Values:
    made = backbones(case)
    residual = not case.params["ignore_residual"]
    notes, values = _baseline(case, MaskCLIP(made, MaskCLIPParams(residual=residual)))

    def alternative(method: Method) -> Callable[[int | None], Any]:
        def features(w: int | None) -> Tensor:
            batch = Batch(notes.window("batch_windows", w)[None])
            return torch.nn.functional.normalize(method.encode(batch).tokens[0], dim=-1)

        return features

    values["w_alt_value_only"] = alternative(MaskCLIP(made, MaskCLIPParams(residual=False)))
    values["w_alt_plain_clip"] = alternative(CLIP(made))
    return values


ADAPTERS: dict[str, Callable[[Case], Values]] = {"corrclip": corrclip, "maskclip": maskclip}


def numpy_value(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
