"""Differences between nested dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Mismatch(NamedTuple):
    """A dotted key with its two values that differ; a missing value is None."""

    key: str
    first: Any
    second: Any


def mismatches(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[Mismatch]:
    """List the leaves of two nested dicts that differ, in the order of their keys.

    Args:
        first: A nested dict.
        second: Another one.
        prefix: Prefix of the dotted keys.

    Example:
        >>> mismatches({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
        [Mismatch(key='a.c', first=2, second=3), Mismatch(key='d', first=None, second=4)]
    """
    found = []
    for key in dict.fromkeys([*first, *second]):
        ours, theirs = first.get(key), second.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found += mismatches(ours, theirs, f"{prefix}{key}.")
        elif ours != theirs:
            found.append(Mismatch(f"{prefix}{key}", ours, theirs))
    return found
