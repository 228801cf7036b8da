"""Parity of LPOSS and LPOSS+: features and graph of all windows, and the scores after each propagation."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ovbench.methods.lposs import LPOSS, PatchGraph
from ovbench.methods.tower_params import LPOSSParams
from ovbench.parity.adapters.common import Values, common_values, label
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import backbones
from ovbench.utils.errors import InputError

FEATURES = {"v": "values", "k": "keys"}


def lposs(case: Case) -> Values:
    """Run a case of LPOSS or LPOSS+."""
    p = case.params
    if p["enc_type_feats"] not in FEATURES:
        raise InputError(
            f'no parity check for enc_type_feats "{p["enc_type_feats"]}" in this version', where=str(case.folder)
        )
    params = LPOSSParams(
        pixels=p["pixel_refine"],
        features=FEATURES[p["enc_type_feats"]],
        neighbours=p["k"],
        gamma=p["gamma"],
        sigma=p["sigma"],
        distance_power=p["pix_dist_pow"],
        alpha=p["alpha"],
        cg_steps=p["cg_iters"],
        tau=p["tau"],
        pixel_window=p["r"],
    )
    own = {
        "mean": [255 * value for value in p["clip_mean"]],
        "std": [255 * value for value in p["clip_std"]],
        "pad_multiple": 0,  # the method pads its windows
    }
    case = replace(case, params=p | own)
    return _values(label(case, LPOSS(backbones(case), params)), torch.from_numpy(case.inputs["text"]).float())


def _values(notes: Recorder, text: Tensor) -> Values:
    def joined(name: str) -> Tensor:
        return torch.cat(notes.notes[name]).flatten(0, 1)

    def dense(graph: PatchGraph) -> Tensor:
        return graph.apply(torch.eye(len(graph.index)))

    names = {
        "locations": "locations", "degree": "degree", "window_scores": "window_scores", "merged": "merged_scores",
        "pixel_lab": "lab", "pixel_degree": "pixel_degree", "pixel_scores": "pixel_scores", "scores": "full_scores",
    }  # fmt: skip
    values: Values = {stage: lambda w, n=name: notes.once(n) for stage, name in names.items() if name in notes.notes}
    return values | common_values(notes) | {
        "dino_features": lambda w: joined("guide"),
        "clip_features": lambda w: joined("clip"),
        "clip_scores": lambda w: joined("clip") @ text.T,
        "knn": lambda w: notes.once("graph").index.sort(1).values,
        "affinity": lambda w: dense(notes.once("graph")),
        "normalised": lambda w: dense(notes.once("normalised")),
        "patch_scores": lambda w: notes.once("patch_scores").flatten(2).mT.flatten(0, 1),
    }  # fmt: skip
