"""Official settings of every method on every benchmark, from configs/official.csv."""

from __future__ import annotations

import csv
from functools import cache

from ovbench.utils.paths import shipped

NOT_STATED = "?"


@cache
def official_settings() -> dict[tuple[str, str], dict[str, str]]:
    """Return the official settings by (method, benchmark): text by dotted name, such as "protocol.crop".

    A value is `NOT_STATED` if the official code does not give it. The settings are empty if there is no official
    configuration, see `no_official_setting`.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in _official_rows():
        settings = found.setdefault((row["method"], row["benchmark"]), {})
        if row["key"]:
            settings[row["key"]] = row["value"]
    return found


def no_official_setting(method: str, benchmark: str) -> str:
    """Return why a known pair has no official configuration, "" if it has one or the pair is unknown."""
    if benchmark in _without_settings():
        return "no configuration was published for this benchmark; these are the method's default settings"
    return _reasons().get((method, benchmark), "")


@cache
def _reasons() -> dict[tuple[str, str], str]:
    """Return why a pair has no official configuration, by (method, benchmark)."""
    return {(row["method"], row["benchmark"]): row["source"] for row in _official_rows() if not row["key"]}


@cache
def _without_settings() -> frozenset[str]:
    """Return the benchmarks of groups, which official.csv does not have."""
    return frozenset(path.stem for path in shipped("datasets").glob("*/*.toml"))


def published_label_rule(benchmark: str) -> str:
    """Return how the published figures of a benchmark count void pixels.

    Returns:
        "official" if the published code differs from a correct count, otherwise "correct".
    """
    return "official" if benchmark in _official_rules() else "correct"


@cache
def _official_rules() -> frozenset[str]:
    return frozenset(row["benchmark"] for row in _official_rows() if row["key"] == "label_rule")


@cache
def _official_rows() -> tuple[dict[str, str], ...]:
    with shipped("configs", "official.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
