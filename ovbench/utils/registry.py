"""Names to things: entries are ``"module:attribute"`` strings or entry points, imported only when asked for."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ovbench.utils.errors import InputError, OvbenchError, Terminated, UsageError, first_line, last_line, unknown

HERE = Path(__file__).parents[1]
GROUPS = ("ovbench.methods", "ovbench.regions", "ovbench.datasets")


@functools.cache
def entry_points(group: str) -> Sequence[importlib.metadata.EntryPoint]:
    """What installed packages announce. Looked up once: every package's metadata are read for it."""
    return tuple(importlib.metadata.entry_points(group=group)) if group else ()


class Registry:
    """A table of names. Built-in entries are strings; other packages add theirs by entry points of ``group`` ("": they
    cannot), all of them subclasses of ``base``. The function ``elsewhere`` loads what is named by its place, with a
    colon in it."""

    def __init__(
        self, kind: str, builtin: dict[str, str], *, group: str = "", base: str = "", elsewhere: str | None = None
    ):
        self.kind, self.group, self.base, self.elsewhere = kind, group, base, elsewhere
        self._builtin = dict(builtin)

    def entries(self) -> dict[str, str]:
        """Every known name with its target; of a name that is defined twice, the first."""
        return {point.name: point.value for point in entry_points(self.group)} | self._builtin

    def names(self) -> list[str]:
        return sorted(self.entries())

    def load(self, name: str) -> Any:
        """The object behind a name.

        Raises:
            UsageError: there is none, with close matches, or two packages define it.
            InputError: a plug-in cannot be loaded, with its file and line.
        """
        if ":" in name and self.elsewhere:
            return load_target(self.elsewhere, where=self.kind)(name)
        entries, points = self.entries(), [point for point in entry_points(self.group) if point.name == name]
        if name not in entries:
            raise unknown(self.kind, name, entries)
        others = sorted({point.value for point in points} - {entries[name]})
        if others:
            raise UsageError(
                f'{self.kind} "{name}" is defined twice', where=f"{entries[name]} and {others[0]}",
                fix="rename the plug-in's entry point or uninstall it",
            )  # fmt: skip
        if name in self._builtin:
            return load_target(entries[name], where=f'{self.kind} "{name}"')
        found = load_plugin(points[0], self.kind)
        base = load_target(self.base, where=self.kind)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise broken_plugin(points[0], self.kind, f"{found!r} is no subclass of {self.base.replace(':', '.')}")
        return found

    def broken(self) -> dict[str, str]:
        """Names from plug-ins that cannot be loaded, with the reason."""
        return broken_names(self.group, self.load)


def broken_names(group: str, load: Callable[[str], object]) -> dict[str, str]:
    """The names among a group's entry points that ``load`` refuses, with what it says."""
    found = {}
    for name in sorted({point.name for point in entry_points(group)}):
        try:
            load(name)
        except OvbenchError as error:
            found[name] = str(error)
    return found


def load_plugin(point: importlib.metadata.EntryPoint, kind: str) -> Any:
    """What an entry point names. InputError, with file and line, for whatever its code does wrong."""
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        if isinstance(error, Terminated):
            raise
        raise broken_plugin(point, kind, f"{type(error).__name__}: {first_line(error)}", error) from error


def broken_plugin(
    point: importlib.metadata.EntryPoint, kind: str, what: str, error: BaseException | None = None
) -> InputError:
    """The error for a plug-in that is not what it should be."""
    module = point.value.partition(":")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    where = (error and last_line(error, skip=HERE)) or file or point.value
    return InputError(
        f'the {kind} "{point.name}"{package} is broken: {what}', where=where, fix="mend the plug-in or uninstall it"
    )


def load_target(target: str, *, where: str) -> Any:
    """Import ``"module:attribute"`` of ovbench."""
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
        "reme": "ovbench.methods.reme.method:ReME",
        "sclip": "ovbench.methods.sclip:SCLIP",
        "sclip-freecp": "ovbench.methods.sclip:SCLIPFreeCP",
        "talk2dino": "ovbench.methods.talk2dino.method:Talk2DINO",
    },
    group="ovbench.methods",
    base="ovbench.methods.base:Method",
    elsewhere="ovbench.methods.plugins:load_method",
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
    base="ovbench.regions.base:RegionSource",
)
