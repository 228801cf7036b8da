"""Small towers with random weights for tests of methods."""

from __future__ import annotations

from functools import partial

import torch
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVit
from torch import nn

from ovbench.backbones.clip import ClipVision
from ovbench.backbones.dino import DinoVision
from ovbench.methods.base import Backbones


def small_towers(*, clip_patch: int = 16, layers: int = 5, seed: int = 0) -> Backbones:
    """In fp64: CLIP of width 32 with 2 heads and positions for about 64 x 64 pixels; DINO of width 24 with patch 8."""
    torch.manual_seed(seed)
    visual = VisionTransformer(
        image_size=64 if clip_patch == 16 else 56, patch_size=clip_patch, width=32, layers=layers, heads=2, mlp_ratio=2,
        output_dim=12, act_layer=QuickGELU, norm_layer=LayerNorm,
    )  # fmt: skip
    vit = TimmVit(
        img_size=64, patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2, num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    for tower in (visual, vit):
        for name, parameter in tower.named_parameters():
            if parameter.ndim == 1 and "norm" not in name and "ln_" not in name:
                nn.init.normal_(parameter, std=0.02)
            elif parameter.ndim == 4:  # patches should differ, so that labels and merged regions do
                nn.init.normal_(parameter, std=4 / parameter[0].numel() ** 0.5)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    return Backbones(clip=ClipVision(visual).double(), dino=DinoVision(vit).double())
