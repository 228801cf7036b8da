"""What open_clip and timm know about a name: where its weights come from, how they are to be used, whether they can."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config.backbone_spec import BackboneSpec
from ovbench.utils.errors import InputError, unknown

CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


class Source(NamedTuple):
    """Where weights come from: a hub repository or an URL, and the names that the file can have."""

    place: str
    files: tuple[str, ...]


def clip_architecture(spec: BackboneSpec, text: str) -> Mapping[str, Any]:
    """open_clip's configuration of an architecture.

    Raises:
        UsageError: for a name that open_clip does not know.
        InputError: for a vision tower that no method here can use.
    """
    import open_clip

    config = open_clip.get_model_config(spec.architecture)
    if config is None:
        raise unknown("CLIP model", spec.architecture, open_clip.list_models(), where=f"clip={text}")
    vision = config["vision_cfg"]
    if vision.get("timm_model_name"):
        kind = f"timm's {vision['timm_model_name']}"
    elif isinstance(vision.get("layers"), (list, tuple)):
        kind = "a ResNet"
    elif vision.get("attentional_pool"):
        kind = "a ViT with attention pooling"
    else:
        return config
    raise InputError(
        f"the vision tower of {spec.architecture} is {kind}, not a CLIP ViT with a class token",
        where=f"clip={text}",
        fix="choose an open_clip model whose vision tower is a plain ViT, such as ViT-B-16",
    )


def clip_tag(spec: BackboneSpec, text: str) -> Mapping[str, Any]:
    """open_clip's configuration of a pretrained tag; raises as `clip_architecture`."""
    import open_clip

    clip_architecture(spec, text)
    tags = open_clip.list_pretrained_tags_by_model(spec.architecture)
    if spec.tag not in tags:
        raise unknown("pretrained tag", spec.tag, tags, where=f"clip={text}")
    return open_clip.get_pretrained_cfg(spec.architecture, spec.tag)


def clip_source(spec: BackboneSpec, text: str) -> Source:
    config = clip_tag(spec, text)
    if config.get("hf_hub"):
        repository, _, file = config["hf_hub"].rpartition("/")
        return Source(repository, (file,) if file else CLIP_FILES)
    return Source(config["url"], (Path(config["url"]).name,))


def quick_gelu(spec: BackboneSpec, text: str) -> bool:
    """Whether the weights of a tag want QuickGELU: as the tag says, or, where it says nothing, the architecture."""
    return bool(clip_tag(spec, text).get("quick_gelu", clip_architecture(spec, text).get("quick_gelu", False)))


def timm_tag(spec: BackboneSpec, text: str) -> Any:
    """timm's configuration of a model with its pretrained tag; UsageError for a name that timm does not know."""
    import timm

    names = timm.list_pretrained()
    if spec.architecture not in names:
        raise unknown("timm model", spec.architecture, [n for n in names if "dino" in n], where=f"dino={text}")
    return timm.get_pretrained_cfg(spec.architecture)


def timm_source(spec: BackboneSpec, text: str) -> Source:
    config = timm_tag(spec, text)
    if config.hf_hub_id:
        repository = config.hf_hub_id
        if repository.endswith("/"):
            repository += f"{config.architecture}.{config.tag}"
        return Source(repository, (config.hf_hub_filename,) if config.hf_hub_filename else TIMM_FILES)
    return Source(config.url, (Path(config.url).name,))
