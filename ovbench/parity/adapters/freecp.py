"""Parity of FreeCP with each of its bases."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Queries
from ovbench.methods.freecp import FreeCP
from ovbench.methods.params import FreeCPParams
from ovbench.parity.adapters.common import Values, common_values, label, window_scores
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import backbones
from ovbench.utils.errors import InputError

# MaskCLIP and SCLIP of FreeCP's repository differ from the methods of this name
BASES = {"MaskCLIP": "maskclip-freecp", "SCLIP": "sclip-freecp", "ClearCLIP": "clearclip", "GEM": "gem"}

DIRECT = {
    "w_attn_mean": "affinity", "w_trans_row1": "transition_first",
    "w_trans_sym": "transition_symmetric", "w_trans_final": "transition", "w_patch_logits": "patch_logits",
}  # fmt: skip
PER_WINDOW = ("redundancy", "survive_redundancy", "survive_ambiguity")
ROWS = {"groups": ("groups", 3), "group_boxes": ("group_boxes", 7), "crop_cls_logits": ("crop_logits", 8)}


def freecp(case: Case) -> Values:
    """Run a case of FreeCP."""
    p = case.params
    if p["model_type"] not in BASES:
        raise InputError(f'no base "{p["model_type"]}" of FreeCP in this version', where=str(case.folder))
    if p.get("crop_size", 112) != 112 or p.get("box_threshold", 0.4) != 0.4 or p.get("gem_depth") not in (None, 7):
        raise InputError("FreeCP is defined for crops of 112, boxes at 0.4 and GEM of depth 7", where=str(case.folder))
    params = FreeCPParams(base=BASES[p["model_type"]], rp_thres=p["rp_thres"], ap_thres=p["ap_thres"])
    method = FreeCP(backbones(case), params).eval()
    text = torch.from_numpy(case.inputs["text"]).float()
    with_background = p["with_bkg"] and not p["ignore_bkg"]
    queries = Queries(
        embeddings=text,
        class_index=torch.tensor(case.class_index()),
        background=0 if with_background else None,
        descriptions=torch.from_numpy(case.inputs["text_llm"]).float(),
    )
    notes = label(case, method, queries)
    at = notes.window

    @torch.inference_mode()
    def class_logits(w: int | None) -> Tensor:
        seen = method.base.class_features(at("batch_windows", w)[None])
        return method.clip.temperature * F.normalize(seen, dim=-1)[0] @ text.T

    def grid_maps(name: str):
        return lambda w: at(name, w).unflatten(-1, at("patch_scores", w).shape[-2:])

    values: Values = {stage: lambda w, n=name: at(n, w) for stage, name in DIRECT.items()}
    values |= {name: lambda w, n=name: torch.cat(notes.notes[n]) for name in PER_WINDOW}
    values |= {stage: lambda w, n=name: _rows(notes, *n) for stage, name in ROWS.items()}
    values |= {
        "w_patch_feature": lambda w: F.normalize(at("features", w), dim=-1),
        "w_cls_logits": class_logits,
        "w_prob": grid_maps("probabilities_patch"),
        "w_aff_mask": grid_maps("box_masks"),
        "w_refined": grid_maps("refined"),
        "w_candidates": lambda w: _overlap(notes, w)[0],
        "w_soft_iou": lambda w: _overlap(notes, w)[1],
        "w_window_logits": lambda w: window_scores(notes, w),
        "scores": lambda w: notes.once("probabilities"),
    }
    return values | common_values(notes)


def _overlap(notes: Recorder, window: int | None) -> Any:
    return [found for batch in notes.notes["overlaps"] for found in batch][window]


def _rows(notes: Recorder, name: str, width: int) -> np.ndarray:
    """Return sorted rows whose first column, the window's number in its batch, is replaced by that in the image."""
    rows, first = [], 0
    counts = iter(len(batch) for batch in notes.notes["batch_windows"])
    for batch in notes.notes[name]:
        rows += [(row[0] + first, *row[1:]) for row in batch]
        first += next(counts)
    return np.array(sorted(rows)).reshape(-1, width)
