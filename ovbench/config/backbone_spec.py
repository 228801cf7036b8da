"""The grammar of backbone names, as they stand in settings files and after ``--weights``.

mini                               the small one that ships with the package
ViT-B-16-quickgelu/openai          CLIP: an open_clip model and its pretrained tag
vit_base_patch8_224.dino           DINO: a timm model
metaclip-l                         a short name from configs/weights.toml
ViT-L-14-quickgelu@weights/L.pt    that architecture with the tensors of a file
ViT-B/16, dino_vitb8               a name of the field: OpenAI's, torch hub's; see [names] in configs/weights.toml
weights/B.safetensors              a file alone, only after --weights: the architecture stays the configured one

and of reference sets, as after --set reference=...:

sets/coco                          a folder
sets/coco?filter=none              that set with other last stages
?filter=none                       the configured one with other last stages
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ovbench.backbones.hub import published
from ovbench.utils.errors import UsageError

MINI = "mini"
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


class BackboneSpec(NamedTuple):
    """``architecture``: what to build; ``tag``: its pretrained tag ("" for none); ``file``: its tensors, or None."""

    architecture: str
    tag: str = ""
    file: Path | None = None


def parse_spec(kind: str, text: str) -> BackboneSpec:
    """
    >>> parse_spec("clip", "ViT-B-16/openai")
    BackboneSpec(architecture='ViT-B-16', tag='openai', file=None)
    """
    architecture, at, file = canonical(kind, text).partition("@")
    if at:
        if not architecture or not file:
            raise UsageError(f'"{text}" is not of the form ARCHITECTURE@FILE', where=f"{kind}={text}")
        return BackboneSpec(_long(kind, architecture).partition("/")[0], file=Path(file).expanduser())
    if _is_file(text):
        raise UsageError(f'"{text}" does not say what it holds', where=f"{kind}={text}", fix="write ARCHITECTURE@FILE")
    name, _, tag = _long(kind, architecture).partition("/")
    return BackboneSpec(name, tag)


def lay_over(kind: str, configured: str | None, given: str) -> str | None:
    """The name that results where ``given`` (after ``--weights``) replaces the configured one; None where it only says
    how a reference set differs from one that is not configured."""
    given = canonical(kind, given)
    if kind == "reference":
        return reference_over(given, configured) if configured or not given.startswith("?") else None
    if "@" in given or not _is_file(given):
        return given
    return f"{parse_spec(kind, configured or given).architecture}@{given}"  # raises where nothing is configured


def reference_over(given: str, base: str | None) -> str:
    """
    >>> reference_over("?filter=none", "sets/coco?synonyms=off")
    'sets/coco?synonyms=off&filter=none'
    """
    if not base or not given.startswith("?"):
        return given
    return base + given.replace("?", "&" if "?" in base else "?")


def canonical(kind: str, text: str) -> str:
    """A name that the field uses, alone or before ``@FILE``, in our own spelling.

    >>> canonical("clip", "ViT-L/14@336px"), canonical("dino", "dino_vitb8@mine.pth")
    ('ViT-L-14-336-quickgelu/openai', 'vit_base_patch8_224.dino@mine.pth')
    """
    names = published("names").get("clip" if kind in ("clip", "presence") else "dino", {})
    for name, ours in sorted(names.items(), key=lambda item: -len(item[0])):
        if kind in ("clip", "presence", "dino", "dinov2") and (text == name or text.startswith(f"{name}@")):
            return ours + text.removeprefix(name)
    return text


def _long(kind: str, name: str) -> str:
    entry = published("clip" if kind == "presence" else kind).get(name)
    return entry.get("spec", name) if entry else name


def _is_file(text: str) -> bool:
    return text.endswith(SUFFIXES) or Path(text).is_file()


def toy_note(backbones: Mapping[str, str | None]) -> str:
    """A warning where backbones are the small networks of `mini`; empty where none is."""
    toys = [kind for kind, spec in backbones.items() if spec == "mini"]
    if not toys:
        return ""
    what = "is a toy network" if len(toys) == 1 else "are toy networks"
    return f"{' and '.join(toys)} {what} of mini, trained on drawn scenes only: the labels of photographs mean nothing"
