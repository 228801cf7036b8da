"""Names to things: entries are ``"module:attribute"`` strings or entry points, imported only when asked for."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

from ovbench.errors import InputError, UsageError, unknown


@functools.cache
def entry_points(group: str) -> Sequence[importlib.metadata.EntryPoint]:
    """What installed packages announce. Looked up once: every package's metadata are read for it."""
    return tuple(importlib.metadata.entry_points(group=group))


class Registry:
    """A table of names. Built-in entries are strings; other packages add theirs by entry points of ``group``, and the
    function ``elsewhere`` loads what is named by its place, with a colon in it."""

    def __init__(
        self, kind: str, builtin: dict[str, str], *, group: str | None = None, elsewhere: str | None = None
    ):
        self.kind, self.group, self.elsewhere = kind, group, elsewhere
        self._builtin = dict(builtin)

    def entries(self) -> dict[str, str]:
        """Every known name with its target. A plug-in that takes a built-in name is refused."""
        found = dict(self._builtin)
        for point in entry_points(self.group) if self.group else ():
            if point.name in found and found[point.name] != point.value:
                raise UsageError(
                    f'{self.kind} "{point.name}" is defined twice',
                    where=f"{found[point.name]} and {point.value}",
                    fix="rename the plug-in's entry point or uninstall it",
                )
            found[point.name] = point.value
        return found

    def names(self) -> list[str]:
        return sorted(self.entries())

    def load(self, name: str) -> Any:
        """The object behind a name; `UsageError` with close matches where there is none."""
        if ":" in name and self.elsewhere:
            return load_target(self.elsewhere, where=self.kind)(name)
        entries = self.entries()
        if name not in entries:
            raise unknown(self.kind, name, entries)
        return load_target(entries[name], where=f'{self.kind} "{name}"')


def load_target(target: str, *, where: str) -> Any:
    """Import ``"module:attribute"``."""
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(
            f'cannot load "{target}": {error}', where=where, fix="reinstall the package that provides it"
        ) from error


METHODS = Registry(
    "method",
    {
        "cass": "ovbench.methods.cass:CASS",
        "clearclip": "ovbench.methods.clearclip:ClearCLIP",
        "clip": "ovbench.methods.clip:CLIP",
        "corrclip": "ovbench.methods.corrclip:CorrCLIP",
        "freecp": "ovbench.methods.freecp:FreeCP",
        "gem": "ovbench.methods.gem:GEM",
        "maskclip": "ovbench.methods.maskclip:MaskCLIP",
        "maskclip-freecp": "ovbench.methods.maskclip:MaskCLIPFreeCP",
        "naclip": "ovbench.methods.naclip:NACLIP",
        "proxyclip": "ovbench.methods.proxyclip:ProxyCLIP",
        "reme": "ovbench.methods.reme:ReME",
        "sclip": "ovbench.methods.sclip:SCLIP",
        "sclip-freecp": "ovbench.methods.sclip:SCLIPFreeCP",
        "talk2dino": "ovbench.methods.talk2dino:Talk2DINO",
    },
    group="ovbench.methods",
    elsewhere="ovbench.plugins:load_method",
)

REGIONS = Registry(
    "region source",
    {
        "eomt": "ovbench.regions.eomt:EomtRegions",
        "felzenszwalb": "ovbench.regions.felzenszwalb:Felzenszwalb",
        "felzenszwalb-resized": "ovbench.regions.felzenszwalb:FelzenszwalbResized",
        "mask2former": "ovbench.regions.mask2former:Mask2FormerRegions",
        "precomputed": "ovbench.regions.precomputed:Precomputed",
        "sam": "ovbench.regions.sam:SamRegions",
        "sam-8": "ovbench.regions.sam:SamRegions8",
        "sam2": "ovbench.regions.sam2:Sam2Regions",
        "sam2-32": "ovbench.regions.sam2:Sam2Regions32",
        "slic": "ovbench.regions.slic:Slic",
    },
    group="ovbench.regions",
)
