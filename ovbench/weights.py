"""From a backbone's name to a frozen network: the packaged small ones, or open_clip and timm with official tags."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import nn

from ovbench.backbones.clip import ClipVision
from ovbench.backbones.dino import DinoVision
from ovbench.backbones.text import TextEncoder
from ovbench.errors import InputError, unknown

MINI = "mini"


class Loaded(NamedTuple):
    """A backbone and where it came from: its name, the hash of its tensors, and the text tower if it has one."""

    vision: nn.Module
    spec: str
    sha256: str
    text: TextEncoder | None = None


def load_backbone(kind: str, spec: str) -> Loaded:
    """Load the backbone ``kind`` ("clip" or "dino") in fp32 on the CPU.

    ``spec`` is "mini", for CLIP an open_clip "MODEL/TAG", for DINO a timm model name. InputError where the weights
    are neither cached nor reachable.
    """
    loaders = {"clip": _load_clip, "dino": _load_dino}
    if kind not in loaders:
        raise unknown("backbone", kind, loaders)
    return loaders[kind](spec)


def _load_clip(spec: str) -> Loaded:
    if spec == MINI:
        from ovbench.backbones import mini

        model, tokenizer = mini.load_clip(), mini.tokenizer()
    else:
        model, tokenizer = _open_clip(spec)
    model = model.float().eval().requires_grad_(False)
    vision = ClipVision(model.visual, float(model.logit_scale.exp()))
    return Loaded(vision, spec, tensor_hash(model), TextEncoder(model, tokenizer))


def _open_clip(spec: str) -> tuple[nn.Module, object]:
    import open_clip

    name, _, tag = spec.partition("/")
    if name not in open_clip.list_models():
        raise unknown("CLIP model", name, open_clip.list_models(), where=f"clip={spec}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise unknown("pretrained tag", tag, tags, where=f"clip={spec}")
    try:
        model = open_clip.create_model(name, pretrained=tag, precision="fp32")
    except Exception as error:  # hub, network and file errors have no common base class
        raise InputError(
            f"the weights of CLIP {spec} are not in the cache and could not be fetched ({_first_line(error)})",
            fix="run once with a connection, or copy the hub's cache folder to this machine",
        ) from error
    return model, open_clip.get_tokenizer(name)


def _load_dino(spec: str) -> Loaded:
    if spec == MINI:
        from ovbench.backbones import mini

        vit = mini.load_dino()
    else:
        vit = _timm(spec)
    vit = vit.float()
    return Loaded(DinoVision(vit), spec, tensor_hash(vit))


def _timm(spec: str) -> nn.Module:
    import timm

    if not timm.is_model(spec.partition(".")[0]):
        raise unknown("timm model", spec, timm.list_models(pretrained=True), where=f"dino={spec}")
    try:
        return timm.create_model(spec, pretrained=True, num_classes=0)
    except Exception as error:  # hub, network and file errors have no common base class
        raise InputError(
            f"the weights of {spec} are not in the cache and could not be fetched ({_first_line(error)})",
            fix="run once with a connection, or copy the hub's cache folder to this machine",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def tensor_hash(model: nn.Module) -> str:
    """sha256 over the names, shapes and values of a model's tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
