"""Parity of GLA-CLIP: keys and values of all windows, sampled rows of their attention, and the features after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ovbench.methods.glaclip import GLACLIP
from ovbench.methods.tower_params import GLACLIPParams
from ovbench.parity.adapters.common import Values, common_values, label
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import backbones
from ovbench.utils.errors import InputError

# official switches that are on, and those that are off
SWITCHES = {
    "CLIP_type": "ProxyCLIP", "KV_token_extension": True, "proxy_sim": True, "token_norm": True, "dynamic_beta": True,
    "dynamic_gamma": True, "smoothing": False, "cutting_hp": 0.0, "temperature": 1.0,
}  # fmt: skip


def glaclip(case: Case) -> Values:
    """Run a case of GLA-CLIP."""
    p = case.params
    other = [name for name, value in SWITCHES.items() if p.get(name, value) != value]
    if other:
        raise InputError(f"no parity check for {other[0]} = {p[other[0]]} in this version", where=str(case.folder))
    params = GLACLIPParams("proxyclip", p["initial_crit_pos"], p["mini_iters"], p["beta_alpha"], p["gamma_alpha"])
    method = GLACLIP(backbones(case), params)
    mixed: list[Tensor] = []
    method.project_mixed = _noted(method, mixed)
    return _values(label(case, method), mixed)


def _noted(method: GLACLIP, mixed: list[Tensor]) -> Callable[[Tensor, None], Tensor]:
    """Return ``project_mixed`` that also keeps the values after the output projection."""
    project, last = method.project_mixed, method.clip.blocks[-1]

    def run(values: Tensor, residual: None) -> Tensor:
        mixed.append(last.attn.out_proj(values))
        return project(values)

    return run


def _values(notes: Recorder, mixed: list[Tensor]) -> Values:
    def joined(name: str, part: int = 0, of: int = 1) -> Tensor:
        return torch.cat(notes.notes[name][part::of])

    def features(w: int | None) -> Tensor:
        return torch.nn.functional.normalize(notes.once("joined").tokens, dim=-1)

    def by_window(values: Tensor) -> Tensor:
        return values.unflatten(0, (len(notes.once("joined").tokens), -1))

    blocks = len(notes.notes["scaled"])
    rounds = len(notes.notes["set_size"]) // blocks
    values: dict[str, Callable[[int | None], Any]] = {
        name: lambda w, n=name: joined(n)
        for name in ("similarity", "proxy", "proxy_similarity", "scaled", "attention", "values")
    }
    values |= common_values(notes)
    return values | {
        "keys": lambda w: joined("keys")[:, 0],
        "dino_features": lambda w: joined("dino_feature"),
        "tokens_before_last": lambda w: joined("tokens_before_last"),
        "count_1": lambda w: by_window(joined("set_size", 0, rounds)),
        "count_2": lambda w: by_window(joined("set_size", rounds - 1, rounds)),
        "proxy_mean": lambda w: by_window(joined("proxy_mean")),
        "gamma": lambda w: by_window(joined("gamma")),
        "attn_out": lambda w: mixed[-1],
        "features": features,
        "cosine": lambda w: notes.once("patch_scores").flatten(2).mT,
        "window_logits": lambda w: notes.once("window_scores"),
        "logits_full": lambda w: notes.once("full_scores"),
        "scores": lambda w: notes.once("probabilities"),
    }
