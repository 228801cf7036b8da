"""Parity of CorrCLIP."""

from __future__ import annotations

from torch import Tensor

from ovbench.methods.corrclip import CorrCLIP
from ovbench.methods.tower_params import CorrCLIPParams
from ovbench.parity.adapters.common import Values, common_values, label, window_scores
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import backbones
from ovbench.utils.errors import InputError


def corrclip(case: Case) -> Values:
    """Run a case of CorrCLIP."""
    p = case.params
    if p.get("MIN_SAMPLES", 1) != 1:
        raise InputError("mask merging is defined for MIN_SAMPLES 1 only", where=str(case.folder))
    params = CorrCLIPParams(
        tau=1 / p["TAU"], eps=p["EPS"], alpha=p["ALPHA"], beta=p["BETA"], spatial_depth=p.get("NUM_SPATIAL")
    )
    return corrclip_values(label(case, CorrCLIP(backbones(case), params)))


def corrclip_values(notes: Recorder) -> Values:
    """Return the stages of CorrCLIP from the notes of a run."""
    at = notes.window

    def mct(w: int | None) -> Tensor:
        return at("mct", w)[: int(at("mct_count", w))]

    direct = ("dino_feats", "masks_dino", "masks_merged", "masks_token", "main_tokens", "spatial_tokens", "branches")
    renamed = {
        "similarity_rows": "similarity", "scope_rows": "scope", "attn_rows": "attn",
        "patch_feats": "features", "low_logits": "patch_scores",
    }  # fmt: skip
    values: Values = {name: lambda w, n=name: at(n, w) for name in direct}
    values |= {stage: lambda w, n=name: at(n, w) for stage, name in renamed.items()}
    values |= {
        "scope_count": lambda w: at("scope", w).sum(-1),
        "mct": mct,
        "window_logits": lambda w: window_scores(notes, w),
        "seg_logits": lambda w: notes.once("full_scores"),
        "probs": lambda w: notes.once("probabilities"),
    }
    return values | common_values(notes)
