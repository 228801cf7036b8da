"""The command that repeats a run, derived from its record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ovbench.config.load import resolve
from ovbench.config.official import published_label_rule
from ovbench.data.card import load_card, vocabulary
from ovbench.utils.differences import mismatches
from ovbench.utils.errors import OvbenchError


def command_of(record: Mapping[str, Any], header: Mapping[str, Any]) -> str | None:
    """Return the shortest ``ovbench eval`` command with the settings of a record.

    Args:
        record: the record.
        header: header of its ledger, or empty.

    Returns:
        The command, None for a method from a file, settings of another version, a subset, or class names of the user.
    """
    cell = record["cell"]
    if ":" in cell["method"] or record["dataset"].get("subset_sha256") or not _usual_names(cell, header):
        return None
    lines = [line for protocol in ("paper", "common") if (line := _line(record, protocol))]
    return min(lines, key=len, default=None)


def _usual_names(cell: Mapping[str, Any], header: Mapping[str, Any]) -> bool:
    try:
        names = vocabulary(load_card(cell["dataset"]), cell["protocol"].get("vocabulary") or None)
    except OvbenchError:
        return False
    return "vocabulary" not in header or header["vocabulary"] == [list(queries) for queries in names]


def _line(record: Mapping[str, Any], protocol: str) -> str | None:
    cell, data = record["cell"], record["dataset"]
    try:
        published = resolve(cell["method"], cell["dataset"], protocol=protocol)
    except OvbenchError:
        return None
    changed = mismatches(published.as_dict(), cell)
    settings, weights = _overrides([one for one in changed if not _gone(one[0], cell)])

    def is_same(chosen: Mapping[str, str]) -> bool:
        try:
            found = resolve(cell["method"], cell["dataset"], chosen, weights, protocol)
        except OvbenchError:
            return False
        return found.digest() == record["settings_sha256"]

    if not is_same(settings):
        return None
    for key in [*settings]:  # drop a setting that follows from another one
        fewer = {other: text for other, text in settings.items() if other != key}
        settings = fewer if is_same(fewer) else settings
    words = ["ovbench", "eval", "-m", cell["method"], "-d", cell["dataset"]]
    words += ["--protocol", protocol] * (protocol != "paper")
    for option, given in (("--set", settings), ("--weights", weights)):
        words += [word for key, value in given.items() for word in (option, f"{key}={value}")]
    words += ["--limit", str(data["images_asked_for"])] * (data["images_asked_for"] < data["split_images"])
    usual = published_label_rule(cell["dataset"]) if protocol == "paper" else "correct"
    words += ["--label-rule", data["label_rule"]] * (data["label_rule"] != usual)
    for key, usual in (("precision", "fp32"), ("compile", False)):
        value = record["device"].get(key, usual)
        if value != usual:
            words += ["--compile"] if key == "compile" else ["--precision", str(value)]
    return shlex.join(words)


def _gone(key: str, cell: Mapping[str, Any]) -> bool:
    """Return whether a setting belongs only to the published region source, not to that of the record."""
    part, _, name = key.partition(".")
    return part == "regions" and name not in cell["regions"]


def _overrides(changed: list[tuple[str, Any, Any]]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the texts for ``--set`` and ``--weights`` from settings that differ."""
    settings: dict[str, str] = {}
    weights: dict[str, str] = {}
    for key, _, value in changed:
        part, _, name = key.partition(".")
        if part == "backbones":
            weights[name] = str(value)
        elif part == "regions":
            settings["regions" if name == "source" else key] = _text(value)
        else:
            settings[name] = _text(value)
    return settings, weights


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
