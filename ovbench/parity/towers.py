"""Backbones of a case: towers with the official tensors."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor, nn

from ovbench.backbones.clip import ClipVision
from ovbench.backbones.clip_model import ImageShape, ImageTower
from ovbench.backbones.dino import DinoVision
from ovbench.backbones.names import timm_names
from ovbench.backbones.preprocess import OPENAI
from ovbench.backbones.vfm import VfmVision
from ovbench.methods.base import Backbones
from ovbench.parity.case import Case
from ovbench.utils.errors import InputError


def backbones(case: Case) -> Backbones:
    """Build every model of a case.

    Raises:
        InputError: If the type of a model is unknown or its tensors do not fit.
    """
    made = {}
    for name, spec in case.models.items():
        build = BUILDERS.get(spec.get("kind"))
        if build is None:
            raise InputError(f'unknown kind of model "{spec.get("kind")}"', where=f"{case.folder}, model {name}")
        try:
            made[name] = build(spec, case.model_weights(name))
        except (KeyError, RuntimeError) as error:
            text = str(error).splitlines()[0] if isinstance(error, RuntimeError) else f"no field {error}"
            raise InputError(f'the model "{name}" cannot be built: {text}', where=str(case.folder)) from error
    return Backbones(**made)


def clip_module(spec: dict[str, Any]) -> nn.Module:
    """Build the vision tower of a case, without its weights."""
    shape = ImageShape(
        spec["layers"], spec["width"], spec["width"] // spec["heads"], spec.get("mlp_ratio", 4), spec["patch_size"],
        spec["image_size"],
    )  # fmt: skip
    return ImageTower(shape, spec["embed_dim"], spec["quick_gelu"], spec.get("ln_eps", 1e-5))


def _clip(spec: dict[str, Any], weights: dict[str, Tensor]) -> ClipVision:
    visual = clip_module(spec)
    whole = any(key.startswith("visual.") for key in weights)  # a complete CLIP, or only its vision tower
    visual.load_state_dict(
        {k.removeprefix("visual."): v for k, v in weights.items() if k.startswith("visual.") or not whole}
    )
    return ClipVision(visual, math.exp(spec["logit_scale"])) if "logit_scale" in spec else ClipVision(visual)


def dino_module(spec: dict[str, Any], registers: int = 0, layer_scale: bool = False) -> nn.Module:
    """Build the DINO of a case, without its weights."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=spec["image_size"],
        patch_size=spec["patch_size"],
        embed_dim=spec["width"],
        depth=spec["layers"],
        num_heads=spec["heads"],
        mlp_ratio=spec.get("mlp_ratio", 4),
        qkv_bias=spec.get("qkv_bias", True),
        norm_layer=partial(nn.LayerNorm, eps=spec.get("ln_eps", 1e-6)),
        num_classes=0,
        reg_tokens=registers,
        no_embed_class=registers > 0,
        init_values=1.0 if layer_scale else None,
    )


def _dino(spec: dict[str, Any], weights: dict[str, Tensor]) -> DinoVision:
    vit = dino_module(spec)
    vit.load_state_dict(weights)
    return DinoVision(vit)


def _radio(spec: dict[str, Any], weights: dict[str, Tensor]) -> VfmVision:
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg, checkpoint_filter_fn

    cfg = NaFlexVitCfg(
        patch_size=spec["patch_size"], embed_dim=spec["width"], depth=spec["layers"], num_heads=spec["heads"],
        mlp_ratio=spec.get("mlp_ratio", 4), init_values=1e-5 if spec.get("layer_scale") else None, class_token=True,
        reg_tokens=spec["cls_tokens"] + spec["registers"] - 1, global_pool="token",
        final_norm=spec.get("final_norm", False), pos_embed_grid_size=(spec["pos_grid"], spec["pos_grid"]),
        pos_embed_interp_mode="bilinear", pos_embed_ar_preserving=True, pos_embed_antialias=False,
    )  # fmt: skip
    vit = NaFlexVit(cfg, num_classes=0)
    vit.load_state_dict(checkpoint_filter_fn(weights, vit))
    return VfmVision(vit, OPENAI)


def _dinov2(spec: dict[str, Any], weights: dict[str, Tensor]) -> VfmVision:
    """Build a DINOv2 by its tensors, which have the names of facebookresearch."""
    tensors = timm_names(weights)
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    side = math.isqrt(tensors["pos_embed"].shape[1] - (0 if registers else 1))
    sizes = {
        "image_size": side * spec["patch_size"],
        "width": tensors["cls_token"].shape[-1],
        "layers": sum(name.endswith("norm1.weight") for name in tensors),
        "heads": spec["heads"] if "heads" in spec else spec["num_heads"],
    }
    vit = dino_module(spec | sizes, registers, layer_scale="blocks.0.ls1.gamma" in tensors)
    vit.load_state_dict(tensors)
    return VfmVision(vit)


BUILDERS = {"clip_vit": _clip, "dino_vit": _dino, "radio": _radio, "dinov2": _dinov2, "dinov2_vit": _dinov2}
