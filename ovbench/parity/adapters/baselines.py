"""Parity of the methods that change only the last block of CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ovbench.methods.base import Batch, Method
from ovbench.methods.bilinear import enlarge
from ovbench.methods.clearclip import ClearCLIP
from ovbench.methods.clip import CLIP
from ovbench.methods.gem import GEM
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.naclip import NACLIP, neighbourhood
from ovbench.methods.params import GEMParams, NACLIPParams, NoResidual, Residual, SCLIPParams
from ovbench.methods.proxyclip import ProxyCLIP
from ovbench.methods.sclip import SCLIP
from ovbench.methods.tower_params import ProxyCLIPParams
from ovbench.parity.adapters.common import Values, common_values, label, window_scores
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import backbones
from ovbench.utils.errors import InputError


def baseline(case: Case, method: Method) -> tuple[Recorder, Values]:
    """Run a method and return its notes and the stages that all these methods have."""
    notes = label(case, method)
    at = notes.window

    def logits(w: int | None) -> Tensor:
        return at("patch_scores", w).flatten(1).T

    def window_logits(w: int | None) -> Tensor:
        """Enlarge to the padded window, as the official code does; without windows often to the original size."""
        if case.params["slide_crop"] == 0 and method.enlarges_once:
            return window_scores(notes, w)
        return enlarge(at("patch_scores", w), at("batch_windows", w).shape[-2:])

    values: Values = {
        "w_tokens_before_last": lambda w: at("tokens_before_last", w),
        "w_patch_feature": lambda w: torch.nn.functional.normalize(at("features", w), dim=-1),
        "w_patch_logits": logits,
        "w_window_logits": window_logits,
        "logits_full": lambda w: notes.once("full_scores"),
        "scores": lambda w: notes.once("probabilities"),
    }
    return notes, values | common_values(notes)


def maskclip(case: Case) -> Values:
    """Run a case of MaskCLIP."""
    made = backbones(case)
    notes, values = baseline(case, MaskCLIP(made, Residual(_residual(case))))

    def alternative(method: Method) -> Callable[[int | None], Any]:
        def features(w: int | None) -> Tensor:
            batch = Batch(notes.window("batch_windows", w)[None])
            return torch.nn.functional.normalize(method.encode(batch).tokens[0], dim=-1)

        return features

    values["w_alt_value_only"] = alternative(MaskCLIP(made, Residual(False)))
    values["w_alt_plain_clip"] = alternative(CLIP(made))
    return values


def clearclip(case: Case) -> Values:
    """Run a case of ClearCLIP."""
    return baseline(case, ClearCLIP(backbones(case), NoResidual(_residual(case))))[1]


def sclip(case: Case) -> Values:
    """Run a case of SCLIP."""
    params = SCLIPParams(residual=_residual(case), area_thd=case.params.get("area_thd") or 0.0)
    return baseline(case, SCLIP(backbones(case), params))[1]


def gem(case: Case) -> Values:
    """Run a case of GEM."""
    p = case.params
    params = GEMParams(
        residual=_residual(case),
        depth=p.get("gem_depth", 7),
        iterations=p.get("ss_attn_iter", 1),
        temperature=p.get("ss_attn_temp"),
    )
    return baseline(case, GEM(backbones(case), params))[1]


def naclip(case: Case) -> Values:
    """Run a case of NACLIP."""
    p = case.params
    strategy, arch = p.get("attn_strategy", "naclip"), p.get("arch", "reduced")
    variants = {
        ("naclip", "reduced"): lambda made: NACLIP(made, NACLIPParams(gaussian_std=p["gaussian_std"])),
        ("naclip", "vanilla"): lambda made: NACLIP(made, NACLIPParams(residual=True, gaussian_std=p["gaussian_std"])),
        ("csa", "reduced"): lambda made: SCLIP(made, SCLIPParams(residual=False)),
        ("csa", "vanilla"): SCLIP,
        ("vanilla", "vanilla"): CLIP,
    }
    if (strategy, arch) not in variants:
        raise InputError(f'no variant "{strategy}", "{arch}" of NACLIP in this version', where=str(case.folder))
    method = variants[strategy, arch](backbones(case))
    method.enlarges_once = False  # NACLIP's code does not, with any attention
    notes, values = baseline(case, method)
    refined = "refined_scores" if p.get("pamr_steps") else "full_scores"

    def renormalised(w: int | None) -> Tensor:
        probabilities = notes.once("probabilities")
        return probabilities / probabilities.sum(0)

    def gaussian(w: int | None) -> Tensor:
        return neighbourhood(notes.window("patch_scores", w).shape[-2:], p["gaussian_std"])

    return values | {
        "logits_full": lambda w: notes.once("merged_scores"),
        "logits_after_pamr": lambda w: notes.once(refined),
        "scores": renormalised,
        "gaussian_addition": gaussian,
    }


def proxyclip(case: Case) -> Values:
    """Run a case of ProxyCLIP."""
    p = case.params
    notes, values = baseline(case, ProxyCLIP(backbones(case), ProxyCLIPParams(p["beta"], p["gamma"])))
    return values | {
        "w_dino_feature": lambda w: notes.window("dino_feature", w),
        "w_dino_similarity": lambda w: notes.window("dino_similarity", w),
    }


def _residual(case: Case) -> bool:
    """Return whether the residual is kept; only ClearCLIP's code has a switch for it."""
    return not case.params.get("ignore_residual", False)
