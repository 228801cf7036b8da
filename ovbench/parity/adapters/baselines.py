"""Parity of the methods that change CLIP's last block only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ovbench.methods.base import Batch, Method
from ovbench.methods.clip import CLIP
from ovbench.methods.maskclip import MaskCLIP, MaskCLIPParams
from ovbench.parity.adapters.common import Values, label, shared_values
from ovbench.parity.case import Case
from ovbench.parity.record import Recorder
from ovbench.parity.towers import backbones


def baseline(case: Case, method: Method) -> tuple[Recorder, Values]:
    """The stages that the parity cases of all one-block methods share."""
    notes = label(case, method)
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
    return notes, values | shared_values(notes)


def maskclip(case: Case) -> Values:
    made = backbones(case)
    residual = not case.params["ignore_residual"]
    notes, values = baseline(case, MaskCLIP(made, MaskCLIPParams(residual=residual)))

    def alternative(method: Method) -> Callable[[int | None], Any]:
        def features(w: int | None) -> Tensor:
            batch = Batch(notes.window("batch_windows", w)[None])
            return torch.nn.functional.normalize(method.encode(batch).tokens[0], dim=-1)

        return features

    values["w_alt_value_only"] = alternative(MaskCLIP(made, MaskCLIPParams(residual=False)))
    values["w_alt_plain_clip"] = alternative(CLIP(made))
    return values
