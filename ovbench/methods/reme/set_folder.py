"""Find the folder of a reference set, and read what it contains."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json
from ovbench.utils.registry import load_target
from ovbench.utils.typed import EncoderNote, OpenTyped, WrittenFile, validate

FORMAT = 1
MANIFEST = "manifest.json"
MINI = "mini"
# Sets that are built on first use. The builder is in a later room, so its functions are named and then imported, as for
# the generator of a card.
GENERATED = "ovbench.training.reference_set.mini_set:mini_set"
VARIANT = "ovbench.training.reference_set.merge_sets:variant"


class _Encoders(OpenTyped):
    clip: EncoderNote
    dinov2: EncoderNote


class _Counts(OpenTyped):
    images: int
    base_roots: int
    final_segments: int
    final_labels: int


class _Cell(OpenTyped):
    dataset: str
    backbones: dict[str, Any]
    protocol: dict[str, Any]
    regions: dict[str, Any]


class _Settings(OpenTyped):
    build: dict[str, Any]
    cell: _Cell


class SetManifest(OpenTyped):
    """The content of a manifest; parts become file names, so they have no folders."""

    stages: dict[str, dict[str, Any]]
    parts: list[Annotated[str, Field(pattern=r"^[\w-]+$")]]
    encoders: _Encoders
    pairing: EncoderNote
    used_with: dict[str, Any]
    settings: _Settings
    counts: _Counts
    warnings: list[str]
    failed: dict[str, str]
    files: dict[str, WrittenFile]


def find_set(text: str) -> Path:
    """Return the folder of a set.

    Args:
        text: A folder, or "mini", which is built on first use. "SET?filter=none&synonyms=off" is the same set with
            other last stages, made on first use in its folder ``variants``.

    Raises:
        InputError: If there is no set.
    """
    text, question, changes = text.partition("?")
    if question:
        return load_target(VARIANT, where="reference")(find_set(text), changes)
    if text == MINI:
        return load_target(GENERATED, where="reference")()
    folder = Path(text).expanduser()
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f'no reference set in "{text}"', where="reference",
            fix="give the folder that `ovbench reference build` finished, or repeat that command to resume",
        )  # fmt: skip
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a set.

    Raises:
        InputError: If there is none, or it is of another version.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("kind") != "reme":
        raise InputError("not a reference set of this version", where=str(folder / MANIFEST))
    validate(SetManifest, manifest, str(folder / MANIFEST), what="the manifest of a reference set")
    return manifest


def content_hash(manifest: dict[str, Any]) -> str:
    """Return a hash of the arrays that segmentation reads, the encoders and the settings."""
    files = {name: entry["sha256"] for name, entry in manifest["files"].items() if name.endswith(".safetensors")}
    content = json.dumps([files, manifest["encoders"], manifest["used_with"]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
