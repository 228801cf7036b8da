"""Parity of RF-CLIP, and of its attention redistribution, which the official code has but does not use."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ovbench.methods.bilinear import enlarge
from ovbench.methods.params import RFCLIPParams
from ovbench.methods.rfclip import RFCLIP
from ovbench.parity.adapters.cass import presence_values
from ovbench.parity.adapters.common import Values
from ovbench.parity.case import Case
from ovbench.parity.towers import backbones
from ovbench.utils.errors import InputError

KNOWN = {"strategy": ("vanilla", "refocus"), "scale_up": (False,), "topk": (2,)}
REFOCUSED = (
    "distractors", "w_tokens_before_last", "w_guide", "w_patch_feature", "global_vector", "window_logits", "labels",
)  # fmt: skip


def rfclip(case: Case) -> Values:
    """Run a case of RF-CLIP."""
    params, towers = _params(case), backbones(case)
    values = _values(case, RFCLIP(towers, params))
    if "refocus" in case.file.variants:
        refocused = _values(case, RFCLIP(towers, replace(params, refocus=True)))
        values |= {f"{name}@refocus": refocused[name] for name in REFOCUSED}
    return values


def _params(case: Case) -> RFCLIPParams:
    p = case.params
    for name, choices in KNOWN.items():
        if name in p and p[name] not in choices:
            raise InputError(f'no parity check for {name} "{p[name]}" in this version', where=str(case.folder))
    own = p["slide_crop"] == 0 or p["dataset"] == "city_scapes"  # windows that give their own global vector
    return RFCLIPParams(
        gamma=p["global_semantics_weight"],
        alpha=p["mean_vector_weight"],
        cluster_distance=p["h_threshold"],
        class_token="window" if own else "image",
        channels=tuple(p["sink_channels"]),
        sigma=p["sigma"],
        repair=p["alpha"],
        beta=p["beta"],
        refocus=p.get("strategy") == "refocus",
    )


def _values(case: Case, method: RFCLIP) -> Values:
    notes, values = presence_values(case, method)
    at, layers = notes.window, method.clip.layers
    middle = layers // 2  # counted from 0: block L // 2 + 1 of the case

    def distractors(w: int | None) -> Tensor:
        return torch.stack([torch.cat(notes.notes[f"distractors_{level}"]) for level in range(layers)], 1)

    def decoded(mixed: Tensor) -> Tensor:
        return method.clip.merge_heads(method.clip.blocks[-1], mixed[None])[0]

    values |= {
        "distractors": distractors,
        "w_level_before": lambda w: at(f"level_before_{middle}", w),
        "w_level_denoised": lambda w: at(f"level_{middle}", w),
        "w_tokens_before_last": lambda w: at("before_last", w),
        "w_guide": lambda w: at("guide", w),
        "w_similarity": lambda w: at("similarity", w),
        "w_window_logits": lambda w: enlarge(at("patch_scores", w), at("batch_windows", w).shape[-2:]),
    }
    for number, source in enumerate(("tokens", "guide"), 1):
        values |= {
            f"w_attention_{number}": lambda w, name=f"attention_{source}": at(name, w),
            f"w_decoded_{number}": lambda w, name=f"mixed_{source}": decoded(at(name, w)),
        }
    values["w_enhanced"] = lambda w: at("enhanced_tokens", w)
    values["w_guide_enhanced"] = lambda w: at("enhanced_guide", w)
    return values
