"""Union of sets of different images: the files of their stages, and the last stages again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovbench.backbones.build import Loaded, load_backbone
from ovbench.config.load import override_pairs
from ovbench.methods.reme.set_folder import MANIFEST, content_hash, find_set, read_manifest
from ovbench.training.reference_set.builder import finish_set
from ovbench.training.reference_set.chunks import STAGES, StageFiles, read_lines
from ovbench.training.reference_set.settings import BuildSettings, Plan, resolve_plan
from ovbench.training.reference_set.stages import chunk_notes
from ovbench.utils.errors import InputError, UsageError, unknown
from ovbench.utils.typed import field_types, parse_values, validate

FREE = ("captions",)  # stages whose settings may differ, because captions may come from several files


def merge_sets(
    folders: Sequence[Path], out: Path, overrides: Mapping[str, str] | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Build the set of all images of several sets.

    Args:
        folders: The sets.
        out: Folder of the new set.
        overrides: Other settings of the filters and synonyms, as text.
        device: Device of the text encoder.

    Raises:
        InputError: If settings or encoders differ, an image is in two sets, or files of the stages are missing.
    """
    manifests = [read_manifest(folder) for folder in folders]
    _require_equal(folders, manifests)
    plan = _plan(manifests[0], overrides or {})
    loaded = _load(folders[0], manifests[0], plan)
    settings = [_settings(manifest) for manifest in manifests]
    files = StageFiles(out / "stages", settings[0])
    files.write_settings()
    chunks: dict[str, Path] = {}
    for folder, manifest, own in zip(folders, manifests, settings, strict=True):
        source = StageFiles(folder / "stages", own)
        for chunk in manifest["parts"]:
            if chunks.setdefault(chunk, folder) != folder:
                raise InputError(f"the images of {chunk} are in two sets", where=f"{chunks[chunk]}, {folder}")
            for stage in STAGES:
                _take(source.path(stage, chunk), files.path(stage, chunk))
    _require_disjoint(files, sorted(chunks))
    return finish_set(out, files, sorted(chunks), plan, loaded, None, device)


def _load(folder: Path, manifest: Mapping[str, Any], plan: Plan) -> dict[str, Loaded]:
    loaded = {role: load_backbone(role, plan.cell.backbones[role]) for role in ("clip", "dinov2")}
    for role, one in loaded.items():
        if one.sha256 != manifest["encoders"][role]["sha256"]:
            raise InputError(f'the {role} "{one.spec}" is no longer the one of the set', where=str(folder))
    pairing = manifest["pairing"]
    return {**loaded, "pairing": loaded["clip"]._replace(spec=pairing["name"], sha256=pairing["sha256"])}


def variant(folder: Path, changes: str) -> Path:
    """Return the set with other settings of its last stages, as in "filter=none&synonyms=off"; built on first use."""
    pairs = override_pairs(tuple(changes.split("&")), "reference")
    key = hashlib.sha256(json.dumps([content_hash(read_manifest(folder)), sorted(pairs.items())]).encode()).hexdigest()
    target = folder / "variants" / key[:12]
    if (target / MANIFEST).is_file():
        return target
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        merge_sets([folder], draft, pairs)
        with contextlib.suppress(OSError):  # another process was faster
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return find_set(str(target))


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {n: {k: v for k, v in manifest["stages"][n].items() if k != "key"} for n in STAGES}


def _require_equal(folders: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> None:
    first = manifests[0]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        pairs = [(f"{role} encoder", e, manifest["encoders"].get(role)) for role, e in first["encoders"].items()]
        pairs += [
            (f"{stage}: {key}", values.get(key), _settings(manifest)[stage].get(key))
            for stage, values in _settings(first).items()
            if stage not in FREE
            for key in {**values, **_settings(manifest)[stage]}
        ]
        for what, a, b in pairs:
            if a != b:
                raise InputError(
                    f"the sets differ in {what}: {_short(a)} and {_short(b)}", where=f"{folders[0]}, {folder}",
                    fix="build them with equal settings",
                )  # fmt: skip


def _short(value: Any) -> str:
    return f"{value['name']} ({value['sha256'][:8]})" if isinstance(value, dict) and "sha256" in value else str(value)


def _plan(manifest: Mapping[str, Any], overrides: Mapping[str, str]) -> Plan:
    """Return the settings of a set with overrides of its last stages."""
    hints = field_types(BuildSettings)
    late = [key for key in hints if key not in ("parser", "spacy_model", "zeta") and not key.startswith("pairing")]
    for key in overrides:
        if key not in late:
            raise unknown("setting of the filters", key, late, where="--set")
    own = parse_values(overrides, hints)
    cell = manifest["settings"]["cell"]
    weights = {role: name for role, name in cell["backbones"].items() if role != "reference"}
    regions = {f"regions.{key}": str(value) for key, value in cell["regions"].items() if key != "source"}
    try:
        protocol = {key: str(cell["protocol"][key]) for key in ("templates", "short_side", "long_side")}
        given = {"regions": cell["regions"]["source"], **regions, **protocol}
        plan = resolve_plan(cell["dataset"], {"parser": "lexicon", **given}, weights)
    except (UsageError, KeyError) as error:
        raise InputError(f"the settings of the set are not valid in this version: {error}") from None
    values = {**manifest["settings"]["build"], **own}
    return plan._replace(build=validate(BuildSettings, values, "settings of the set", given=own))


def _take(source: Path, target: Path) -> None:
    if not source.is_file():
        raise InputError(
            "a file of the stages is missing, and sets cannot be merged without it", where=str(source),
            fix="copy the folder stages with the set",
        )  # fmt: skip
    if target.is_file() and os.path.samefile(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _require_disjoint(files: StageFiles, chunks: Sequence[str]) -> None:
    """Check that no image is in two sets."""
    seen: dict[str, str] = {}
    for chunk in chunks:
        chunk_notes(files, chunk)
        for row in read_lines(files.path("captions", chunk)):
            if row["image"] in seen:
                raise InputError(
                    f"the image {row['image']} is in two sets", where=f"{seen[row['image']]}, {chunk}",
                    fix="divide the images with --shard K/N",
                )  # fmt: skip
            seen[row["image"]] = chunk
