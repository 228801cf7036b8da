"""Published weights by short name: the tables of configs/weights.toml."""

from __future__ import annotations

from typing import Any

from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml


def published(table: str) -> dict[str, Any]:
    """Return a table of configs/weights.toml, such as "clip" or "sam": entries by short name; {} if there is none."""
    return read_toml(shipped("configs", "weights.toml")).get(table, {})
