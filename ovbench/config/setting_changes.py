"""Settings that differ between two cells, as text for users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ovbench.config.load import regions_table
from ovbench.config.schema import ADDED
from ovbench.utils.errors import OvbenchError
from ovbench.utils.registry import BACKBONES

PRECOMPUTED = "precomputed"
AUTHORS_MAPS = "sam2-32"  # the region source whose maps CorrCLIP's authors published


class SettingChange(NamedTuple):
    """A setting, by its name in ``--set`` or ``--weights``, with its expected and its actual value.

    A value is None if one side does not have the setting.
    """

    setting: str
    expected: Any
    value: Any

    def __str__(self) -> str:
        return f"{self.setting}={setting_text(self.value)}"


def setting_text(value: Any) -> str:
    """Return a value as text for ``--set``.

    Example:
        >>> setting_text([8, 16]), setting_text(True), setting_text(None), setting_text("")
        ('8,16', 'true', 'none', '""')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(setting_text, value))
    return '""' if value == "" else str(value)


def setting_changes(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[SettingChange]:
    """Return the settings that differ between two cells.

    If the region source differs, only its name and its settings other than the defaults are listed.

    Args:
        expected: A cell, from `Cell.as_dict`.
        actual: The cell to compare with it.
    """
    found = []
    for table in dict.fromkeys([*expected, *actual]):
        before, after = expected.get(table), actual.get(table)
        if table in ("method", "dataset") or before == after:
            continue
        if table == "regions":
            found += _region_changes(before or {}, after or {})
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            if table == "protocol":
                before, after = ADDED | dict(before), ADDED | dict(after)
            keys = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
            unlike = [key for key in keys if table != "backbones" or not _same_backbone(key, before, after)]
            found += [SettingChange(key, before.get(key), after.get(key)) for key in unlike]
        else:
            found.append(SettingChange(table, before, after))
    return found


def with_official(
    cell: Mapping[str, Any], official: Mapping[str, str | None], regions: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a cell in which files of the user have the names of the published weights that they are.

    Args:
        cell: The cell, from `Cell.as_dict`.
        official: Names of published weights by backbone; an empty one changes nothing.
        regions: Its region settings with the name of published weights.
    """
    named = {name: known for name, known in official.items() if known and name in cell["backbones"]}
    return {**cell, "backbones": {**cell["backbones"], **named}, "regions": regions}


def changes_from_published(published: Mapping[str, Any], actual: Mapping[str, Any]) -> list[SettingChange]:
    """Return how a cell differs from a published one; precomputed maps are taken as the published maps."""
    authors = published["regions"].get("source") in (AUTHORS_MAPS, PRECOMPUTED)
    if actual["regions"].get("source") == PRECOMPUTED and authors:
        published = {**published, "regions": actual["regions"]}
    return setting_changes(published, actual)


def _same_backbone(name: str, before: Mapping[str, str | None], after: Mapping[str, str | None]) -> bool:
    """Return whether two specs name the same weights, also if one is a short name."""
    if not before.get(name) or not after.get(name) or name not in BACKBONES.entries():
        return False
    return BACKBONES.load(name).same(before[name], after[name])


def _region_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[SettingChange]:
    source, found = after.get("source"), []
    if before.get("source") != source:
        found.append(SettingChange("regions", before.get("source"), source))
        before = _defaults(source) or after
    keys = [key for key in dict.fromkeys([*before, *after]) if key != "source" and before.get(key) != after.get(key)]
    return found + [SettingChange(f"regions.{key}", before.get(key), after.get(key)) for key in keys]


def _defaults(source: str | None) -> Mapping[str, Any]:
    try:
        return regions_table(source, {}) if source else {}
    except OvbenchError:
        return {}  # the source of a plug-in that is not installed now
