"""Small segmentation models with random weights, saved in the official formats."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn


def small_sam(width: int = 32) -> nn.Module:
    """A SAM for pictures of 64 pixels."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=2, embed_dim=width, img_size=64, mlp_ratio=2, norm_layer=partial(nn.LayerNorm, eps=1e-6), num_heads=2,
            patch_size=16, qkv_bias=True, use_rel_pos=True, global_attn_indexes=[1], window_size=2, out_chans=16,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=16, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3, transformer_dim=16, iou_head_depth=2, iou_head_hidden_dim=8,
            transformer=TwoWayTransformer(depth=1, embedding_dim=16, mlp_dim=16, num_heads=2),
        ),
    )  # fmt: skip


def save_sam2(folder: Path) -> Path:
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(0)
    hiera = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [3], "window_positional_embedding_background_size": [2, 2],
    }  # fmt: skip
    vision = {"backbone_config": hiera, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32}
    model = Sam2Model(
        Sam2Config(
            vision_config=vision | {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
            prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
            mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        )
    )
    model.save_pretrained(folder)
    return folder


def save_mask2former(folder: Path) -> Path:
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
            encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=6, num_labels=5,
        )
    )  # fmt: skip
    spread_classes(model)
    model.save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_eomt(folder: Path) -> Path:
    from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

    torch.manual_seed(0)
    model = EomtForUniversalSegmentation(
        EomtConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=8, num_queries=6,
            num_blocks=1, num_upscale_blocks=1, num_labels=133, num_register_tokens=0,
        )
    )  # fmt: skip
    spread_classes(model)
    model.save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 64}
    EomtImageProcessor(size=size, do_pad=True, do_split_image=False).save_pretrained(folder)
    return folder


def spread_classes(model: nn.Module) -> None:
    """Random class scores far apart, so that some queries pass a threshold."""
    with torch.no_grad():
        model.class_predictor.weight.mul_(60)
