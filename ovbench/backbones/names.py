"""Names of tensors in several libraries, converted to those of open_clip (CLIP) and timm (the DINOs)."""

from __future__ import annotations

import re

import torch
from torch import Tensor

Weights = dict[str, Tensor]

# names of transformers' CLIPModel to open_clip's; {} is "text_model" or "vision_model"
CLIP_BLOCK = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
CLIP_REST = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
VIT_BLOCK = {
    "attention.output.dense": "attn.proj", "attention.o_proj": "attn.proj", "layernorm_before": "norm1",
    "layernorm_after": "norm2", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "norm1": "norm1",
    "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
# name of the query, and names of query, key and value, which differ between versions of the library
VIT_PROJECTIONS = {
    three[0]: three
    for three in (
        tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
        tuple(f"attention.{part}_proj" for part in "qkv"),
    )
}
PROJECTIONS = {name for three in VIT_PROJECTIONS.values() for name in three}
VIT_REST = {
    "embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens", "embeddings.mask_token": "mask_token",
}  # fmt: skip


def open_clip_names(weights: Weights) -> Weights:
    """Return the tensors of transformers' ``CLIPModel`` with open_clip's names; other tensors are unchanged."""
    inside = _inside(weights, "vision_model.encoder.layers.0.layer_norm1.weight")
    if inside is None:
        return weights
    weights = inside
    renamed: Weights = {}
    for name, tensor in weights.items():
        block = re.fullmatch(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if block and block[3] == "self_attn.q_proj":
            parts = [weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            renamed[f"{_tower(block[1])}transformer.resblocks.{block[2]}.attn.in_proj_{block[4]}"] = torch.cat(parts)
        elif block and block[3] in CLIP_BLOCK:
            renamed[f"{_tower(block[1])}transformer.resblocks.{block[2]}.{CLIP_BLOCK[block[3]]}.{block[4]}"] = tensor
        elif name in ("text_projection.weight", "visual_projection.weight"):
            renamed["text_projection" if name.startswith("text") else "visual.proj"] = tensor.T.contiguous()
        elif name in CLIP_REST:
            renamed[CLIP_REST[name]] = tensor
        elif not (name.endswith("position_ids") or (block and block[3] in ("self_attn.k_proj", "self_attn.v_proj"))):
            renamed[name] = tensor
    return renamed


def _inside(weights: Weights, mark: str) -> Weights | None:
    """Return the tensors of the network that has the tensor ``mark``, without the prefix of a larger model.

    A teacher or an average is preferred to a student. None without such a network.
    """
    prefixes = [name.removesuffix(mark) for name in weights if name.endswith(mark)]
    prefixes = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
    if not prefixes:
        return None
    best = max(prefixes, key=preference)
    return {name.removeprefix(best): tensor for name, tensor in weights.items() if name.startswith(best)}


def preference(prefix: str) -> tuple[bool, bool, int]:
    """Return the sort key of a prefix: a teacher or an average before others, a student last, short ones first."""
    return ("teacher" in prefix or "ema" in prefix, "student" not in prefix, -len(prefix))


def _tower(kind: str) -> str:
    return "visual." if kind == "vision" else ""


def timm_names(weights: Weights, *, biases: bool = False) -> Weights:
    """Return the tensors of a DINO, DINOv2 or DINOv3 with timm's names.

    The names of facebookresearch and, except for DINOv3, of transformers are known. With registers, the position of the
    class token is added to it. The mask token of training and the zero biases of DINOv3's projections are left out.

    Args:
        weights: The tensors.
        biases: Whether the DINOv3 of timm has biases of queries and values (``..._qkvb``); then zero ones are kept.
    """
    weights = {name: tensor for name, tensor in _facebook_names(weights).items() if name != "mask_token"}
    if "storage_tokens" in weights:
        return _dinov3(weights, biases)
    if "register_tokens" in weights:
        positions = weights.pop("pos_embed")
        weights["reg_token"] = weights.pop("register_tokens")
        weights["cls_token"] = weights["cls_token"] + positions[:, :1]
        weights["pos_embed"] = positions[:, 1:]
    return weights


def _dinov3(weights: Weights, biases: bool) -> Weights:
    renamed: Weights = {}
    for name, tensor in weights.items():
        if name.endswith("qkv.bias"):
            acting = (tensor * weights.get(f"{name}_mask", torch.ones_like(tensor))).nan_to_num()
            q, k, v = acting.chunk(3)
            if biases and not k.any():
                renamed |= {name.replace("qkv.bias", "q_bias"): q, name.replace("qkv.bias", "v_bias"): v}
                continue
            if not acting.any():
                continue
        elif name.endswith((".periods", ".bias_mask")) or name.startswith("local_cls_norm"):
            continue
        new = name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")
        renamed[new.replace("storage_tokens", "reg_token")] = tensor
    return renamed


def _facebook_names(weights: Weights) -> Weights:
    """Convert names of transformers' ``ViTModel`` (DINO) and ``Dinov2Model``, with or without registers."""
    inside = _inside(weights, "embeddings.cls_token")
    if inside is None:
        return weights
    weights = inside
    renamed: Weights = {}
    for name, tensor in weights.items():
        block = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias|lambda1)", name)
        if block and block[2] in VIT_PROJECTIONS:
            parts = [weights[name.replace(block[2], part)] for part in VIT_PROJECTIONS[block[2]]]
            renamed[f"blocks.{block[1]}.attn.qkv.{block[3]}"] = torch.cat(parts)
        elif block and block[2] in VIT_BLOCK:
            renamed[f"blocks.{block[1]}.{VIT_BLOCK[block[2]]}.{block[3]}"] = tensor
        elif block and block[2] in ("layer_scale1", "layer_scale2"):
            renamed[f"blocks.{block[1]}.ls{block[2][-1]}.gamma"] = tensor
        elif name.startswith("embeddings.patch_embeddings.projection."):
            renamed[f"patch_embed.proj.{name.rpartition('.')[2]}"] = tensor
        elif name.startswith("layernorm."):
            renamed[f"norm.{name.rpartition('.')[2]}"] = tensor
        elif name in VIT_REST:
            renamed[VIT_REST[name]] = tensor
        elif not (name.startswith("pooler.") or (block and block[2] in PROJECTIONS)):
            renamed[name] = tensor
    return renamed
