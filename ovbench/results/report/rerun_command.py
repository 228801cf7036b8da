"""The command that repeats the run of a record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ovbench.config.setting_changes import setting_text
from ovbench.evaluation.record import Arguments

OPTIONS = ("protocol", "label_rule", "limit", "shard", "subset", "classes", "device", "precision", "batch")


def command_of(record: Mapping[str, Any]) -> str | None:
    """Return the ``ovbench eval`` command with the arguments of a record; None if it has none.

    Example:
        >>> command_of({"arguments": {"method": "clip", "dataset": "mini", "settings": {"crop": 96}, "limit": 5}})
        'ovbench eval -m clip -d mini --set crop=96 --limit 5'
    """
    if not record.get("arguments"):
        return None
    given = Arguments.model_validate(record["arguments"])
    words = ["ovbench", "eval", "-m", given.method, "-d", given.dataset]
    for key, value in given.settings.items():
        words += ["--set", f"{key}={'' if value == '' else setting_text(value)}"]
    for name, spec in given.weights.items():
        words += ["--weights", f"{name}={spec}"]
    for name in OPTIONS:
        value = getattr(given, name)
        if value != Arguments.model_fields[name].default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--metrics", ",".join(given.metrics)] if given.metrics else []
    return shlex.join(words + ["--compile"] * given.compile)
