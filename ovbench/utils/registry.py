"""Registries of methods, backbones and region sources; an entry is imported when it is first used."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ovbench.utils.errors import InputError, OvbenchError, Terminated, UsageError, first_line, last_line, unknown

HERE = Path(__file__).parents[1]
GROUPS = ("ovbench.methods", "ovbench.backbones", "ovbench.regions", "ovbench.datasets")


@functools.cache
def entry_points_by_group() -> dict[str, Sequence[importlib.metadata.EntryPoint]]:
    """Return the entry points of our groups, in one cached pass, because it reads the metadata of every package."""
    found = importlib.metadata.entry_points()
    return {group: tuple(found.select(group=group)) for group in GROUPS}


def entry_points(group: str) -> Sequence[importlib.metadata.EntryPoint]:
    """Return the entry points of a group, none for the group ""."""
    return entry_points_by_group()[group] if group else ()


class Registry:
    """A table from names to objects.

    Args:
        kind: What a name stands for, for messages, such as "method".
        builtin: Entries as ``"module:attribute"``.
        group: Entry point group in which other packages add entries; "" for none.
        base: The class, as ``"module:attribute"``, that entries of other packages must subclass.
        declared: The table, as ``"module:attribute"``, of what is known of entries without importing them.
        adapt: Instead of ``base``, a function of an object and its name that returns the entry or raises TypeError.
        elsewhere: The function that loads a name with a colon, such as ``FILE.py:Class``.
    """

    def __init__(
        self,
        kind: str,
        builtin: dict[str, str],
        *,
        group: str = "",
        base: str = "",
        declared: str = "",
        adapt: str = "",
        elsewhere: str | None = None,
    ):
        self.kind, self.group, self.base, self.adapt, self.elsewhere = kind, group, base, adapt, elsewhere
        self.declared, self._builtin = declared, dict(builtin)

    def entries(self) -> dict[str, str]:
        """Return every known name with its target; a built-in entry goes before a plug-in of the same name."""
        return {point.name: point.value for point in entry_points(self.group)} | self._builtin

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted(self.entries())

    def load(self, name: str) -> Any:
        """Return the object behind a name.

        Raises:
            UsageError: If the name is unknown (with close matches), or two packages define it.
            InputError: If a plug-in cannot be loaded (with its file and line).
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
        if self.adapt:
            try:
                return self.adapted(found, name)
            except TypeError as error:
                raise broken_plugin(points[0], self.kind, first_line(error)) from None
        base = load_target(self.base, where=self.kind)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise broken_plugin(points[0], self.kind, f"{found!r} is not a subclass of {self.base.replace(':', '.')}")
        return found

    def declaration(self, name: str) -> Any:
        """Return what is known of an entry without importing it, or the entry itself; raises as `load`."""
        if self.declared and name in self._builtin and all(p.name != name for p in entry_points(self.group)):
            declared = load_target(self.declared, where=self.kind)
            if name in declared:
                return declared[name]
        return self.load(name)

    def adapted(self, found: Any, name: str) -> Any:
        """Return the entry for an object of another package.

        Raises:
            TypeError: If the object does not fit.
        """
        return load_target(self.adapt, where=self.kind)(found, name)

    def broken(self) -> dict[str, str]:
        """Return the names of plug-ins that cannot be loaded, with the reason."""
        return broken_names(self.group, self.load)


def broken_names(group: str, load: Callable[[str], object]) -> dict[str, str]:
    """Return the names of entry points of a group that ``load`` refuses, with its message."""
    found = {}
    for name in sorted({point.name for point in entry_points(group)}):
        try:
            load(name)
        except OvbenchError as error:
            found[name] = str(error)
    return found


def load_plugin(point: importlib.metadata.EntryPoint, kind: str) -> Any:
    """Return the object that an entry point names.

    Raises:
        InputError: If its code fails, with file and line.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        if isinstance(error, Terminated):
            raise
        raise broken_plugin(point, kind, f"{type(error).__name__}: {first_line(error)}", error) from error


def broken_plugin(
    point: importlib.metadata.EntryPoint, kind: str, what: str, error: BaseException | None = None
) -> InputError:
    """Return the error for a broken plug-in, with its package, file and line."""
    module = point.value.partition(":")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    where = (error and last_line(error, skip=HERE)) or file or point.value
    return InputError(
        f'the {kind} "{point.name}"{package} is broken: {what}', where=where, fix="repair the plug-in or uninstall it"
    )


def load_target(target: str, *, where: str) -> Any:
    """Import ``"module:attribute"`` of ovbench.

    Raises:
        InputError: If it does not exist.
    """
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
        "corrclipv2": "ovbench.methods.corrclipv2:CorrCLIPv2",
        "dihclip": "ovbench.methods.dihclip:DiHCLIP",
        "freecp": "ovbench.methods.freecp:FreeCP",
        "gem": "ovbench.methods.gem:GEM",
        "glaclip": "ovbench.methods.glaclip:GLACLIP",
        "lposs": "ovbench.methods.lposs:LPOSS",
        "maskclip": "ovbench.methods.maskclip:MaskCLIP",
        "maskclip-freecp": "ovbench.methods.maskclip:MaskCLIPFreeCP",
        "naclip": "ovbench.methods.naclip:NACLIP",
        "ovstitcher": "ovbench.methods.ovstitcher:OVStitcher",
        "pearl": "ovbench.methods.pearl:PEARL",
        "proxyclip": "ovbench.methods.proxyclip:ProxyCLIP",
        "reme": "ovbench.methods.reme.method:ReME",
        "rfclip": "ovbench.methods.rfclip:RFCLIP",
        "scclip": "ovbench.methods.scclip:SCCLIP",
        "sclip": "ovbench.methods.sclip:SCLIP",
        "sclip-freecp": "ovbench.methods.sclip:SCLIPFreeCP",
        "sfp": "ovbench.methods.sfp:SFP",
        "talk2dino": "ovbench.methods.talk2dino.method:Talk2DINO",
    },
    group="ovbench.methods",
    base="ovbench.methods.base:Method",
    declared="ovbench.methods.declarations:DECLARATIONS",
    elsewhere="ovbench.methods.plugins:load_method",
)

BACKBONES = Registry(
    "backbone",
    {
        "auxiliary": "ovbench.backbones.open_clip_models:AUXILIARY",
        "clip": "ovbench.backbones.open_clip_models:CLIP",
        "dino": "ovbench.backbones.timm_models:DINO",
        "dinov2": "ovbench.backbones.timm_models:DINOV2",
        "presence": "ovbench.backbones.open_clip_models:PRESENCE",
        "psi": "ovbench.methods.talk2dino.psi_weights:PSI",
        "reference": "ovbench.methods.reme.reference_backbone:REFERENCE",
        "support": "ovbench.methods.support.backbone:SUPPORT",
        "vfm": "ovbench.backbones.timm_models:VFM",
    },
    group="ovbench.backbones",
    adapt="ovbench.backbones.base:as_backbone",
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


def find_backbone(name: str, module: str = "") -> Any:
    """Return a backbone: the registered one, otherwise the one that the module of a method defines.

    Args:
        name: A name in a method's needs, such as "clip".
        module: The imported Python module of that method. It defines a backbone by a function ``load_NAME`` and
            optionally ``missing_NAME`` and ``normalisation_NAME``; see `ovbench.backbones.base.Backbone`.

    Raises:
        UsageError: If the name is unknown, with close matches.
        InputError: If a plug-in is broken, with its file and line.
    """
    own = sys.modules.get(module)
    found = {part: getattr(own, f"{part}_{name}", None) for part in ("load", "missing", "normalisation")}
    if found["load"] is None or name in BACKBONES.entries():
        return BACKBONES.load(name)
    brought = SimpleNamespace(**{part: value for part, value in found.items() if value is not None})
    try:
        return BACKBONES.adapted(brought, name)
    except TypeError as error:
        where = str(getattr(own, "__file__", name))
        raise InputError(f'the backbone "{name}" is broken: {first_line(error)}', where=where) from None
