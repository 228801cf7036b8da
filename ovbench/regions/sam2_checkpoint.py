"""Read the checkpoints that the authors of Segment Anything 2 publish (sam2_hiera_large.pt) into Sam2Model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovbench.backbones.checkpoint import fill, read_tensors
from ovbench.utils.errors import InputError

# Hiera settings of facebookresearch/sam2 (configs/sam2/*.yaml), by width and number of blocks. sam2.1 has the same.
SIZES: dict[tuple[int, int], dict[str, Any]] = {
    (96, 12): {"stages": [1, 2, 7, 2], "heads": 1, "whole": [5, 7, 9], "windows": [8, 4, 14, 7]},
    (96, 16): {"stages": [1, 2, 11, 2], "heads": 1, "whole": [7, 10, 13], "windows": [8, 4, 14, 7]},
    (112, 24): {"stages": [2, 3, 16, 3], "heads": 2, "whole": [12, 16, 20], "windows": [8, 4, 14, 7]},
    (144, 48): {"stages": [2, 6, 36, 4], "heads": 2, "whole": [23, 33, 43], "windows": [8, 4, 16, 8]},
}
# of the video model: an image alone has no memory and no object pointers
MEMORY = (
    "maskmem_tpos_enc", "no_mem_pos_enc", "no_obj", "mask_downsample.", "memory_attention.", "memory_encoder.",
    "obj_ptr",
)  # fmt: skip
POSITIONS = "shared_image_embedding.positional_embedding"
# names of the authors -> names of transformers, applied in this order
NAMES = (
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", POSITIONS),
    (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"(_mlps\.\d|_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(_mlps\.\d|_head)\.layers\.2\.", r"\1.proj_out."),
    (r"(_mlps\.\d|_head)\.layers\.1\.", r"\1.layers.0."),
)  # fmt: skip
FIX = "give sam2_hiera_{tiny,small,base_plus,large}.pt, or a folder with config.json and model.safetensors"


def load_official(path: Path) -> Any:
    """Load a checkpoint of the authors.

    Args:
        path: A file such as sam2_hiera_large.pt.

    Returns:
        The frozen Sam2Model on the CPU, in eval mode.

    Raises:
        InputError: If it is no such checkpoint, or a tensor is missing or has another shape.
    """
    from transformers import Sam2Model

    state = read_tensors(path)
    network = Sam2Model(config_of(state, path))
    fill(network, renamed(state), name="Segment Anything 2", path=path, fix=FIX)
    return network.eval().requires_grad_(False)


def config_of(state: dict[str, Tensor], path: Path) -> Any:
    """Return the Sam2Config of a checkpoint, from its width and number of blocks.

    Raises:
        InputError: If it has no published size.
    """
    from transformers import Sam2Config

    stem = state.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {key.split(".")[3] for key in state if key.startswith("image_encoder.trunk.blocks.")}
    size = SIZES.get((stem.shape[0], len(blocks))) if stem is not None else None
    if stem is None or size is None:
        raise InputError(f'"{path}" is no checkpoint of Segment Anything 2', fix=FIX)
    widths = [stem.shape[0] * 2**stage for stage in range(4)]
    hiera = {
        "model_type": "sam2_hiera_det_model", "hidden_size": widths[0], "num_attention_heads": size["heads"],
        "blocks_per_stage": size["stages"], "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [size["heads"] * 2**stage for stage in range(4)],
        "window_size_per_stage": size["windows"], "global_attention_blocks": size["whole"],
        "window_positional_embedding_background_size": list(state["image_encoder.trunk.pos_embed"].shape[-2:]),
    }  # fmt: skip
    return Sam2Config(vision_config={"backbone_config": hiera, "backbone_channel_list": widths[::-1]})


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the image model under the names of transformers."""
    given = {key: value for key, value in state.items() if not key.startswith(MEMORY)}
    points = sorted(key for key in given if key.startswith("sam_prompt_encoder.point_embeddings."))
    tensors = {new_name(key): value for key, value in given.items() if key not in points}
    if points:
        tensors["prompt_encoder.point_embed.weight"] = torch.cat([given[key] for key in points])
    shared = tensors.get(POSITIONS)
    if shared is not None:
        tensors["prompt_encoder.shared_embedding.positional_embedding"] = shared
    return tensors


def new_name(key: str) -> str:
    """Return the name of a tensor in transformers."""
    for old, new in NAMES:
        key = re.sub(old, new, key)
    return key
