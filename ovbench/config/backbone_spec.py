"""The grammar of backbone names, as they stand in settings files and after ``--weights``.

mini                               the small one that ships with the package
ViT-B-16-quickgelu/openai          CLIP: an open_clip model and its pretrained tag
vit_base_patch8_224.dino           DINO: a timm model
metaclip-l                         a short name from configs/weights.toml
ViT-L-14-quickgelu@weights/L.pt    that architecture with the tensors of a file
ViT-B/16, dino_vitb8               a name of the field: OpenAI's, torch hub's; see [names] in configs/weights.toml
weights/B.safetensors              a file alone, only after --weights: the architecture stays the configured one

A backbone of a plug-in has its own grammar. Any name may take options: "sets/coco?filter=none" is the set "sets/coco"
with another filter, and "?filter=none" alone, after --set or --weights, changes what is configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config.published_weights import published
from ovbench.utils.errors import UsageError, unknown
from ovbench.utils.registry import find_backbone

MINI = "mini"
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


class BackboneSpec(NamedTuple):
    """``architecture``: what to build; ``tag``: its pretrained tag ("" for none); ``file``: its tensors, or None."""

    architecture: str
    tag: str = ""
    file: Path | None = None


def parse_spec(backbone: str, text: str, table: str = "") -> BackboneSpec:
    """Split a name into architecture, tag and file.

    Args:
        backbone: the registered name, such as "clip"; it stands in messages.
        text: what stands after ``--weights BACKBONE=``.
        table: the table of configs/weights.toml with its short names; by default the one named like the backbone.

    Raises:
        UsageError: the text names a file without an architecture, or the reverse.

    Example:
        >>> parse_spec("clip", "ViT-B-16/openai")
        BackboneSpec(architecture='ViT-B-16', tag='openai', file=None)
    """
    table = table or backbone
    architecture, at, file = canonical(table, text).partition("@")
    if at:
        if not architecture or not file:
            raise UsageError(f'"{text}" is not of the form ARCHITECTURE@FILE', where=f"{backbone}={text}")
        return BackboneSpec(_long(table, architecture).partition("/")[0], file=Path(file).expanduser())
    if _is_file(text):
        raise UsageError(
            f'"{text}" does not say what it holds', where=f"{backbone}={text}", fix="write ARCHITECTURE@FILE"
        )
    name, _, tag = _long(table, architecture).partition("/")
    return BackboneSpec(name, tag)


def lay_over(backbone: str, configured: str | None, given: str, table: str = "") -> str:
    """Return the name that results if ``given`` (after ``--weights``) replaces the configured one.

    Raises:
        UsageError: a file is given and no architecture is configured.
    """
    given = canonical(table or backbone, given)
    if "@" in given or not _is_file(given):
        return given
    return f"{parse_spec(backbone, configured or given, table).architecture}@{given}"


def options_over(given: str, base: str | None) -> str:
    """Return ``given``, or ``base`` with further options if ``given`` is options alone.

    Example:
        >>> options_over("?filter=none", "sets/coco?synonyms=off")
        'sets/coco?synonyms=off&filter=none'
    """
    if not base or not given.startswith("?"):
        return given
    return base + given.replace("?", "&" if "?" in base else "?")


def canonical(table: str, text: str) -> str:
    """Replace a name of the field, alone or before ``@FILE``, by the name that open_clip or timm has for it.

    Example:
        >>> canonical("clip", "ViT-L/14@336px"), canonical("dino", "dino_vitb8@mine.pth")
        ('ViT-L-14-336-quickgelu/openai', 'vit_base_patch8_224.dino@mine.pth')
    """
    tables = published("names")
    names = tables.get(table, {})
    if isinstance(names, str):  # the same names as another table
        names = tables[names]
    for name, ours in sorted(names.items(), key=lambda item: -len(item[0])):
        if text == name or text.startswith(f"{name}@"):
            return ours + text.removeprefix(name)
    return text


def configured_backbones(
    entry: Any, configured: Mapping[str, str], given: Mapping[str, str], method: str, *, incomplete: bool = False
) -> dict[str, str | None]:
    """Choose a spec for every backbone that a method needs, and for optional ones that are configured or given.

    Args:
        entry: the class of the method; its ``needs`` decide.
        configured: names by backbone from settings files.
        given: names by backbone from the command line; they win.
        method: the name of the method, for messages.
        incomplete: a backbone without a name is None instead of an error.

    Raises:
        UsageError: the method has no such backbone, or one has no name.
    """
    needs = entry.needs
    chosen = {name: configured.get(name) for name in (*needs.backbones, *needs.optional)}
    for name, spec in given.items():
        if name not in chosen:
            raise unknown("backbone", name, chosen, where=f"method {method}")
        chosen[name] = find_backbone(name, entry.__module__).lay_over(spec, chosen[name])
    chosen = {name: spec for name, spec in chosen.items() if spec is not None or name not in needs.optional}
    absent = [] if incomplete else [name for name, spec in chosen.items() if spec is None]
    for backbone in (find_backbone(name, entry.__module__) for name in absent):
        raise UsageError(f'method "{method}" needs {backbone.label}', fix=f"give {backbone.advice}")
    return chosen


def backbones_among_settings(entry: Any, overrides: Mapping[str, Any]) -> dict[str, str]:
    """Return those of ``--set`` that name a backbone which is set like a parameter (`Backbone.is_setting`)."""
    names = (*entry.needs.backbones, *entry.needs.optional)
    asked = {name: str(overrides[name]) for name in names if name in overrides}
    return {name: text for name, text in asked.items() if find_backbone(name, entry.__module__).is_setting}


def _long(table: str, name: str) -> str:
    entry = published(table).get(name)
    return entry.get("spec", name) if entry else name


def _is_file(text: str) -> bool:
    return text.endswith(SUFFIXES) or Path(text).is_file()


def toy_note(backbones: Mapping[str, str | None]) -> str:
    """Return a warning if backbones are the small networks of `mini`, otherwise ""."""
    toys = [name for name, spec in backbones.items() if spec == MINI]
    if not toys:
        return ""
    what = "is a toy network" if len(toys) == 1 else "are toy networks"
    return f"{' and '.join(toys)} {what} of mini, trained on drawn scenes only: the labels of photographs mean nothing"
