"""The small backbones that ship with the package, trained on the `mini` world: a CLIP, a DINO and a DINOv2-like ViT.

The CLIP has the layout of open_clip. Its token embedding is stored for the tokens that training used; every other
token shares one row. See ``ovbench/assets/mini/MODEL_CARD.md``.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

from ovbench.utils.paths import asset

if TYPE_CHECKING:
    import timm
    import torch

    from ovbench.backbones.clip_model import ClipModel
    from ovbench.backbones.clip_tokenizer import ClipTokenizer

CONTEXT_LENGTH = 32


def clip_config() -> dict:
    """Return the open_clip configuration of the CLIP."""
    return json.loads(asset("mini", "clip.json").read_text())


def expand(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the full open_clip state dict, float32, from the stored one.

    Its ``token_rows``, float16 (1 + N, C), are the row of all unknown tokens, then one row for each of ``token_ids``,
    int32 (N,).
    """
    full = {k: t.float() for k, t in state.items() if not k.startswith("token_")}
    rows = state["token_rows"].float()
    table = rows[:1].repeat(clip_config()["text_cfg"]["vocab_size"], 1)
    table[state["token_ids"].long()] = rows[1:]
    full["token_embedding.weight"] = table
    return full


def load_clip() -> ClipModel:
    """Return the CLIP in eval mode, float32, on the CPU."""
    from safetensors.torch import load_file

    from ovbench.backbones.clip_model import ClipModel, Shapes

    config = clip_config()
    model = ClipModel(Shapes.of(config), config["quick_gelu"])
    model.load_state_dict(expand(load_file(asset("mini", "clip.safetensors"))))
    return model.eval()


def load_dino(name: str = "dino") -> timm.models.VisionTransformer:
    """Return "dino" or "dinov2" in eval mode, float32, on the CPU; image sides must be multiples of the patch."""
    from safetensors.torch import load_file
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(**json.loads(asset("mini", f"{name}.json").read_text()), dynamic_img_size=True)
    model.load_state_dict({k: t.float() for k, t in load_file(asset("mini", f"{name}.safetensors")).items()})
    return model.eval()


@functools.cache  # its table is read once
def tokenizer() -> ClipTokenizer:
    """Return CLIP's tokenizer with the context length of this CLIP."""
    from ovbench.backbones.open_clip_tables import clip_tokenizer

    return clip_tokenizer(CONTEXT_LENGTH)
