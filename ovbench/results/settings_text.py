"""Settings as texts for people: no Python spelling, and only what tells one run from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A setting by its name after ``--set`` or ``--weights``: the value that it is compared with, and the own one.
    None for a setting that one side does not have."""

    setting: str
    expected: Any
    value: Any

    def __str__(self) -> str:
        return f"{self.setting}={as_text(self.value)}"


def as_text(value: Any) -> str:
    """A value as it stands after ``--set``.

    >>> as_text([8, 16]), as_text(True), as_text(None), as_text("")
    ('8,16', 'true', 'none', '""')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(as_text, value))
    return '""' if value == "" else str(value)


def changes(expected: Mapping[str, Any], own: Mapping[str, Any]) -> list[Change]:
    """How a cell, as `Cell.as_dict` gives it, differs from another. Of another region source only the name is told, and
    what of its settings is not its default."""
    found = []
    for table in dict.fromkeys([*expected, *own]):
        before, after = expected.get(table), own.get(table)
        if table in ("method", "dataset") or before == after:
            continue
        if table == "regions":
            found += _region_changes(before or {}, after or {})
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            keys = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
            unlike = [key for key in keys if table != "backbones" or not _same_backbone(key, before, after)]
            found += [Change(key, before.get(key), after.get(key)) for key in unlike]
        else:
            found.append(Change(table, before, after))
    return found


def _same_backbone(kind: str, before: Mapping[str, str | None], after: Mapping[str, str | None]) -> bool:
    """Whether two names, one of them short, are of the same weights."""
    from ovbench.config.backbone_spec import parse_spec

    if kind in ("psi", "reference") or not before.get(kind) or not after.get(kind):
        return False
    return parse_spec(kind, before[kind]) == parse_spec(kind, after[kind])


def _region_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    source, found = after.get("source"), []
    if before.get("source") != source:
        found.append(Change("regions", before.get("source"), source))
        before = _defaults(source) or after
    keys = [key for key in dict.fromkeys([*before, *after]) if key != "source" and before.get(key) != after.get(key)]
    return found + [Change(f"regions.{key}", before.get(key), after.get(key)) for key in keys]


def _defaults(source: str | None) -> Mapping[str, Any]:
    from ovbench.config.load import regions_table
    from ovbench.utils.errors import OvbenchError

    try:
        return regions_table(source, {}) if source else {}
    except OvbenchError:
        return {}  # a source of a plug-in that is no longer there
