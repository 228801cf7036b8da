"""Backbones of the published architectures with random weights: the same work as real ones, without a download."""

from __future__ import annotations

from typing import Any

import open_clip
import timm
import torch
from torch import Tensor, nn

from ovbench.backbones.build import Loaded, load_backbone
from ovbench.backbones.clip import ClipVision
from ovbench.backbones.dino import DinoVision
from ovbench.backbones.dinov2 import Dinov2Vision
from ovbench.backbones.preprocess import IMAGENET, OPENAI
from ovbench.backbones.vfm import VfmVision
from ovbench.config.backbone_spec import parse_spec
from ovbench.methods.reme.reference_bank import ReferenceBank
from ovbench.methods.talk2dino.projection import Psi

WIDTHS = {"text": 512, "visual": 768}  # of ViT-B/16's joint space, and of the base DINOs
SEGMENTS, LABELS = 50_000, 2_000  # of the reference set
NAMES = {"reference": "random"}


class RandomText:
    """A text encoder with random embeddings; only their number matters here."""

    def require_room(self, queries: list[str], templates: list[str], what: str = "") -> None:
        """Accept every query."""

    def on(self, device: str) -> RandomText:
        """Return the encoder: it has no tower."""
        return self

    def encode(self, prompts: list[str]) -> Tensor:
        return torch.randn(len(prompts), WIDTHS["text"], generator=torch.Generator().manual_seed(0))


def load(kind: str, spec: str, module: str = "") -> Loaded:
    """Replace `ovbench.backbones.build.load_backbone`."""
    torch.manual_seed(0)
    if kind == "support":
        return load_backbone(kind, spec)
    vision = _reference() if kind == "reference" else _network(kind, parse_spec(kind, spec).architecture)
    text: Any = RandomText() if kind == "clip" else None
    return Loaded(vision.eval().requires_grad_(False), spec, f"random-{kind}", text)


def _network(kind: str, architecture: str) -> nn.Module:
    if kind == "psi":
        return Psi(WIDTHS["text"], WIDTHS["visual"])
    if kind in ("clip", "presence"):
        config = open_clip.get_model_config(architecture)
        config["text_cfg"] |= {"layers": 1}  # it is not asked
        return ClipVision(open_clip.CLIP(**_parts(config)).visual)
    vit = timm.create_model(architecture.partition(".")[0], pretrained=False, num_classes=0)
    if kind == "vfm":
        return VfmVision(vit, OPENAI if "_radio_" in architecture else IMAGENET)
    return DinoVision(vit) if kind == "dino" else Dinov2Vision(vit)


def _parts(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "embed_dim": config["embed_dim"],
        "vision_cfg": open_clip.CLIPVisionCfg(**config["vision_cfg"]),
        "text_cfg": open_clip.CLIPTextCfg(**config["text_cfg"]),
        "quick_gelu": config.get("quick_gelu", False),
    }


def _reference() -> ReferenceBank:
    rows = torch.arange(SEGMENTS)
    segments, labels = torch.randn(SEGMENTS, WIDTHS["visual"]), torch.randn(LABELS, WIDTHS["text"])
    return ReferenceBank.from_pairs(segments, labels, rows, rows % LABELS)
