"""Parity of the methods in which CLIP calibrates itself: SC-CLIP, SFP and DiH-CLIP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovbench.methods.dihclip import DiHCLIP, attention
from ovbench.methods.params import DiHCLIPParams, SCCLIPParams, SFPParams
from ovbench.methods.scclip import SCCLIP
from ovbench.methods.self_calibration import SelfCalibrated
from ovbench.methods.sfp import SFP
from ovbench.parity.adapters.baselines import baseline
from ovbench.parity.adapters.common import Values
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import backbones
from ovbench.utils.errors import InputError

DETECTORS = {"SOM": "som", "L2": "norm", "LOF": "distance"}  # the official names
PER_WINDOW = {
    "lof": "scores", "class_to_patch": "class_to_patch", "patch_to_itself": "patch_to_itself",
    "pre_entropy": "pre_entropy", "pre_heads": "pre_heads", "last_entropy": "last_entropy", "last_heads": "last_heads",
    "multi_entropy": "multi_entropy", "multi_heads": "multi_heads", "window_logits": "patch_scores",
}  # fmt: skip
OF_WINDOW = {
    "w_tokens_repaired": "tokens_repaired", "w_pre_output": "pre_output", "w_pre_similarity": "similarity",
    "w_similarity_cut": "similarity_cut", "w_similarity_attention": "mixing",
    "w_post_similarity_cut": "post_similarity", "w_tokens_aggregated": "tokens_aggregated", "w_last": "last",
    "w_last_aggregated": "last_aggregated", "w_multi_sum": "multi_sum", "w_multi": "multi",
    "w_multi_aggregated": "multi_aggregated", "w_sum": "sum",
}  # fmt: skip


def scclip(case: Case) -> Values:
    """Run a case of SC-CLIP."""
    p = case.params
    params = SCCLIPParams(
        **_levels(case), neighbours=p.get("n_neighbors", 30), contamination=p.get("contamination", 0.05)
    )
    notes, values = _calibrated(case, SCCLIP(backbones(case), params))

    def first_head(w: int | None) -> Tensor:
        return (notes.window("mixing", w) + _own(notes, "last_keys", w)) / 2

    return values | {"outliers": lambda w: _indices(notes, None), "w_attention": first_head}


def sfp(case: Case) -> Values:
    """Run a case of SFP."""
    p = case.params
    if p.get("purify", True) is not True or p["pm"] not in DETECTORS:
        raise InputError(f'no parity check for pm "{p["pm"]}" in this version', where=str(case.folder))
    first, last = p.get("multi_levels", (3, 9))
    params = SFPParams(
        pre_level=p.get("pre_level", 8),
        post_level=p.get("post_level", 3),
        multi_start=first,
        multi_end=last + 1,
        res_cls=p["res_cls"],
        beta=p.get("beta", 0.4),
        area_thd=p.get("area_thd") or 0.0,
        detector=DETECTORS[p["pm"]],
        res_scale=p.get("res_scale", 5.0),
    )
    notes, values = _calibrated(case, SFP(backbones(case), params))

    def first_head(w: int | None) -> Tensor:
        own = _own(notes, "last_keys", w) + _own(notes, "last_queries", w)
        return (own + notes.window("mixing", w)) / 3

    width = params.outliers if params.detector != "distance" else None
    return values | {"outliers": lambda w: _indices(notes, width), "w_attention": first_head}


def dihclip(case: Case) -> Values:
    """Run a case of DiH-CLIP."""
    params = DiHCLIPParams(**_levels(case), heads=case.params.get("topk_SHA", 4))
    notes, values = _calibrated(case, DiHCLIP(backbones(case), params))
    return values | {
        "w_tokens_before_last_patches": lambda w: notes.window("tokens_before_last", w)[1:],
        "w_attention": lambda w: notes.window("last_attention", w)[:1],
    }


def _levels(case: Case) -> dict[str, Any]:
    p = case.params
    return {
        "pre_level": p["pre_adjust_idx"],
        "post_level": p["post_adjust_idx"],
        "multi_start": p["multi_start_idx"],
        "multi_end": p["multi_end_idx"],
        "res_cls": p["res_cls"],
        "beta": p.get("beta", 0.4),
        "area_thd": p.get("area_thd") or 0.0,
    }


def _calibrated(case: Case, method: SelfCalibrated) -> tuple[Recorder, Values]:
    notes, values = baseline(case, method)
    values |= {stage: lambda w, n=name: torch.cat(notes.notes[n]) for stage, name in PER_WINDOW.items()}
    values |= {stage: lambda w, n=name: notes.window(n, w) for stage, name in OF_WINDOW.items()}
    return notes, values


def _own(notes: Recorder, name: str, w: int | None) -> Tensor:
    """Return softmax(z z^T) of the first head of noted keys or queries z, (1, N, N)."""
    z = notes.window(name, w)[None, :1]
    return attention(z, z)[0]


def _indices(notes: Recorder, width: int | None) -> Tensor:
    """Return the outliers of each window, ascending, filled with -1 up to the width (default: the largest number)."""
    found = [row.nonzero()[:, 0] for batch in notes.notes["outliers"] for row in batch]
    width = width or max(len(row) for row in found)
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=-1) for row in found])
