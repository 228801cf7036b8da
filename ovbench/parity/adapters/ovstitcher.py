"""Parity of OV-Stitcher: the stitched grids, the regions of the image, and the branches on them."""

from __future__ import annotations

import torch
from torch import Tensor

from ovbench.methods.ovstitcher import PAD_ID, OVStitcher
from ovbench.methods.tower_params import OVStitcherParams
from ovbench.parity.adapters.common import Values, common_values, label
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import backbones
from ovbench.regions.ids import rank_ids
from ovbench.utils.errors import InputError


def ovstitcher(case: Case) -> Values:
    """Run a case of OV-Stitcher."""
    p = case.params
    if p.get("MIN_SAMPLES", 1) != 1 or p.get("pad_region_id", PAD_ID) != PAD_ID:
        raise InputError(f"parity is defined for MIN_SAMPLES 1 and pad_region_id {PAD_ID}", where=str(case.folder))
    params = OVStitcherParams(
        tau=1 / p["TAU"], eps=p["EPS"], alpha=p["ALPHA"], beta=p["BETA"], spatial_depth=p.get("NUM_SPATIAL")
    )
    method = OVStitcher(backbones(case), params)
    notes = label(case, method)

    def rows(name: str) -> Tensor:
        return torch.cat(notes.notes[name])

    def distances(w: int | None) -> Tensor:
        ranks = rank_ids(notes.once("masks_dino")[None])
        return method.region_distances(ranks, notes.once("dino_feats")[None])[0, 1:, 1:]  # without the lowest id

    once = (
        "dino_qkv", "dino_residual", "dino_feats", "masks_dino", "masks_merged", "similarity_mean", "region_list",
        "masks_token", "spatial_tokens", "main_values", "mct", "semantic_stitched", "branches",
    )  # fmt: skip
    values: Values = {name: lambda w, n=name: notes.once(n) for name in once}
    values |= common_values(notes)
    return values | {
        "dino_attn_rows": lambda w: _dino_attention(notes, method.dino.heads),
        "similarity_mean": lambda w: notes.once("similarity_mean").view(1),
        "similarity_rows": lambda w: rows("similarity"),
        "region_distance": distances,
        "scope_rows": lambda w: rows("scope"),
        "scope_count": lambda w: rows("scope").sum(1),
        "attn_rows": lambda w: rows("attn"),
        "main_tokens": lambda w: notes.window("main_tokens", w),
        "spatial_in_first": lambda w: notes.notes["spatial_in"][0],
        "spatial_attn_first_rows": lambda w: notes.notes["spatial_attention"][0],
        "patch_feats": lambda w: notes.once("joined").tokens[0],
        "low_logits": lambda w: notes.once("patch_scores")[0],
        "image_logits": lambda w: notes.once("window_scores")[0],
        "seg_logits": lambda w: notes.once("full_scores"),
        "probs": lambda w: notes.once("probabilities"),
    }


def _dino_attention(notes: Recorder, heads: int) -> Tensor:
    """Return the weights that the fused attention of DINO's last block does not give, float (heads, L, L)."""
    q, k = notes.once("dino_qkv")[:2].unflatten(-1, (heads, -1)).transpose(1, 2)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
