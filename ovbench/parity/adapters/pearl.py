"""Parity of PEARL, and of its reading with the text matrix in full."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ovbench.methods.bilinear import enlarge
from ovbench.methods.params import PEARLParams
from ovbench.methods.pearl import PEARL
from ovbench.parity.adapters.common import Values, common_values, label
from ovbench.parity.case import Case
from ovbench.parity.towers import backbones
from ovbench.utils.errors import InputError

KNOWN = {
    "arch": ("reduced",), "attn_strategy": ("pearl", "vanilla"), "align_solver": ("polar", "svd"),
    "use_prop": ("on", "off", True, False),
}  # fmt: skip
FULL = ("agree", "data_weight", "edge_h", "edge_v", "solution", "labels")


def pearl(case: Case) -> Values:
    """Run a case of PEARL."""
    params, towers = _params(case), backbones(case)
    values = _values(case, PEARL(towers, params))
    if "text_matrix_in_full" in case.file.variants:
        full = _values(case, PEARL(towers, replace(params, text="full")))
        values |= {f"{name}@text_matrix_in_full": full[name] for name in FULL}
    return values


def _params(case: Case) -> PEARLParams:
    p = case.params
    for name, choices in KNOWN.items():
        if name in p and p[name] not in choices:
            raise InputError(f'no parity check for {name} "{p[name]}" in this version', where=str(case.folder))
    return PEARLParams(
        align=p.get("attn_strategy", "pearl") == "pearl",
        align_solver=p.get("align_solver", "polar"),
        polar_iters=p.get("polar_iters", 5),
        alpha_kk=p["alpha_kk"] if p.get("use_kk", True) else 0.0,
        propagate=p.get("use_prop", "on") in ("on", True),
        grid=p["grid"],
        tau=p.get("tau_S", 0.5),
        boost=p.get("diag_boost", 10.0),
        k_edge=p.get("k_edge", 5.0),
        cg_iters=p.get("cg_iters", 25),
    )


def _values(case: Case, method: PEARL) -> Values:
    notes = label(case, method)
    at, once = notes.window, notes.once
    height_width = case.inputs["image"].shape[:2]

    def scores(w: int | None) -> Tensor:
        probabilities = once("probabilities")
        return probabilities / probabilities.sum(0)

    values: Values = {
        f"w_{name}": lambda w, n=name: at(n, w)
        for name in ("tokens_before_last", "correlation", "rotation", "attention", "last")
    }
    of_image = ("text_matrix", "grid_logits", "grid_gray", "agree", "data_weight", "edge_h", "edge_v", "solution")
    values |= {name: lambda w, n=name: once(n) for name in of_image if name in notes.notes}
    values |= {
        "w_patch_feature": lambda w: normalize(at("features", w), dim=-1),
        "window_logits": lambda w: torch.cat(notes.notes["patch_scores"]),
        "w_window_logits": lambda w: enlarge(at("patch_scores", w), at("batch_windows", w).shape[-2:]),
        "logits_full": lambda w: enlarge(once("merged_scores"), height_width),
        "refined": lambda w: once("full_scores"),
        "scores": scores,
    }
    return values | common_values(notes)
