"""Names of backbones, as given in settings files and with ``--weights``.

mini                               the small network that ships with the package
ViT-B-16-quickgelu/openai          CLIP: an open_clip model and its pretrained tag
vit_base_patch8_224.dino           DINO: a timm model
metaclip-l                         a short name from configs/weights.toml
ViT-L-14-quickgelu@weights/L.pt    an architecture with the tensors of a file
ViT-B/16, dino_vitb8               a common name (OpenAI's or torch hub's), see [names] in configs/weights.toml
weights/B.safetensors              a file alone, only with --weights: the architecture stays as configured

A backbone of a plug-in has its own form of names. Any name may have options: "sets/coco?filter=none" is the set
"sets/coco" with another filter. With --set or --weights, "?filter=none" alone changes the configured name.
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
    """A name split into its components.

    Attributes:
        architecture: The network to build.
        tag: Its pretrained tag; "" for none.
        file: The file of its tensors, or None.
    """

    architecture: str
    tag: str = ""
    file: Path | None = None


def parse_spec(backbone: str, text: str, table: str = "") -> BackboneSpec:
    """Split a name into architecture, tag and file.

    Args:
        backbone: The registered name, such as "clip", for messages.
        text: The name, as given with ``--weights BACKBONE=``.
        table: The table of configs/weights.toml with its short names; by default ``backbone``.

    Raises:
        UsageError: If the text has a file without an architecture, or "@" without a file.

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
            f'the architecture of "{text}" is not known', where=f"{backbone}={text}", fix="write ARCHITECTURE@FILE"
        )
    name, _, tag = _long(table, architecture).partition("/")
    return BackboneSpec(name, tag)


def replace_spec(backbone: str, configured: str | None, given: str, table: str = "") -> str:
    """Return the name that results if ``given`` (with ``--weights``) replaces the configured one.

    Args:
        backbone: The registered name, such as "clip".
        configured: The configured name, or None.
        given: The given name; a file alone keeps the configured architecture.
        table: The table of short names; by default ``backbone``.

    Raises:
        UsageError: If a file is given and no architecture is configured.
    """
    given = canonical(table or backbone, given)
    if "@" in given or not _is_file(given):
        return given
    return f"{parse_spec(backbone, configured or given, table).architecture}@{given}"


def options_over(given: str, base: str | None) -> str:
    """Return ``given``, or ``base`` with added options if ``given`` has options only.

    Example:
        >>> options_over("?filter=none", "sets/coco?synonyms=off")
        'sets/coco?synonyms=off&filter=none'
    """
    if not base or not given.startswith("?"):
        return given
    return base + given.replace("?", "&" if "?" in base else "?")


def canonical(table: str, text: str) -> str:
    """Replace a common name, alone or before ``@FILE``, by its name in open_clip or timm.

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
    """Choose the name of every required backbone, and of optional ones that are configured or given.

    Args:
        entry: The class of the method, with its ``needs``.
        configured: Names by backbone from settings files.
        given: Names by backbone from the command line; they replace configured ones.
        method: Name of the method, for messages.
        incomplete: Return None for a required backbone without a name, instead of raising an error.

    Raises:
        UsageError: If a given backbone is not one of the method's, or a required one has no name.
    """
    needs = entry.needs
    chosen = {name: configured.get(name) for name in (*needs.backbones, *needs.optional)}
    for name, spec in given.items():
        if name not in chosen:
            raise unknown("backbone", name, chosen, where=f"method {method}")
        chosen[name] = find_backbone(name, entry.__module__).replace_spec(spec, chosen[name])
    chosen = {name: spec for name, spec in chosen.items() if spec is not None or name not in needs.optional}
    absent = [] if incomplete else [name for name, spec in chosen.items() if spec is None]
    for backbone in (find_backbone(name, entry.__module__) for name in absent):
        raise UsageError(f'method "{method}" needs {backbone.label}', fix=f"give {backbone.advice}")
    return chosen


def backbones_among_settings(entry: Any, overrides: Mapping[str, Any]) -> dict[str, str]:
    """Return the overrides that name a backbone which is set like a parameter (`Backbone.is_setting`)."""
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
    toys = [name for name, spec in backbones.items() if spec and spec.partition("?")[0] == MINI]
    if not toys:
        return ""
    what = "is a toy network" if len(toys) == 1 else "are toy networks"
    return f"{' and '.join(toys)} {what} of mini, trained on drawn images only: labels of photographs are meaningless"
