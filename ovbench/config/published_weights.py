"""Published weights by short name: the tables of configs/weights.toml."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import Field

from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import Typed, validate


class ShortName(Typed):
    """A spec with a short name, and the repository from which open_clip or timm downloads it."""

    spec: str
    hub: str
    licence: str


class WeightsEntry(Typed):
    """A file, and the DINOv2 and CLIP that it belongs to if it is a psi; without a hash, it is not downloaded."""

    file: str
    url: Annotated[str, Field(pattern="^https://")]
    licence: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    dinov2: str | None = None
    clip: str | None = None


class WeightsFile(Typed):
    """The file configs/weights.toml."""

    clip: dict[str, ShortName] = Field(default_factory=dict)
    dino: dict[str, ShortName] = Field(default_factory=dict)
    dinov2: dict[str, ShortName] = Field(default_factory=dict)
    vfm: dict[str, ShortName] = Field(default_factory=dict)
    psi: dict[str, WeightsEntry] = Field(default_factory=dict)
    sam: dict[str, WeightsEntry] = Field(default_factory=dict)
    names: dict[str, str | dict[str, str]] = Field(default_factory=dict)
    hashes: dict[str, dict[Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")], str]] = Field(default_factory=dict)


TABLES = tuple(name for name in WeightsFile.model_fields if name not in ("names", "hashes"))


@cache
def _tables() -> dict[str, Any]:
    path = shipped("configs", "weights.toml")
    return validate(WeightsFile, read_toml(path), path.name).model_dump(exclude_none=True)


def published(table: str) -> dict[str, Any]:
    """Return a table of configs/weights.toml by short name, such as "clip" or "sam"; empty if there is none."""
    return _tables().get(table, {})
