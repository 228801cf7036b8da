"""Uniting sets whose images were divided among machines: their parts side by side, and the last stages again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovbench.backbones.build import load_backbone
from ovbench.config.load import override_pairs, parse_value
from ovbench.methods.reme.reference_store import MANIFEST, content_hash, find_set, read_manifest
from ovbench.training.reference_set.builder import finish_set
from ovbench.training.reference_set.parts import STAGES, Work
from ovbench.training.reference_set.settings import BuildSettings, Plan, resolve_plan
from ovbench.training.reference_set.stages import part_notes
from ovbench.utils.errors import InputError, UsageError, unknown

FREE = ("captions",)  # stages whose settings may differ: captions may come from several files


def merge_sets(
    folders: Sequence[Path], out: Path, overrides: Mapping[str, str] | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """The set of all images of ``folders``, in ``out``; its manifest. ``overrides`` are settings of the filters and
    synonyms. InputError where settings or encoders differ, an image is in two sets, or their stages are gone."""
    manifests = [read_manifest(folder) for folder in folders]
    _require_equal(folders, manifests)
    plan = _plan(manifests[0], overrides or {})
    loaded = {kind: load_backbone(kind, plan.cell.backbones[kind]) for kind in ("clip", "dinov2")}
    for kind, one in loaded.items():
        made = manifests[0]["encoders"][kind]
        if one.sha256 != made["sha256"]:
            raise InputError(f'the {kind} "{one.spec}" is not the one of the sets any more', where=str(folders[0]))
    loaded["pairing"] = loaded["clip"]._replace(
        spec=manifests[0]["pairing"]["name"], sha256=manifests[0]["pairing"]["sha256"]
    )
    settings = [_settings(manifest) for manifest in manifests]
    work = Work(out / "stages", settings[0])
    work.describe()
    parts: dict[str, Path] = {}
    for folder, manifest, own in zip(folders, manifests, settings, strict=True):
        source = Work(folder / "stages", own)
        for part in manifest["parts"]:
            if part in parts and parts[part] != folder:
                raise InputError(f"the part {part} is in two sets", where=f"{parts[part]}, {folder}")
            parts[part] = folder
            for stage in STAGES:
                _take(source.file(stage, part), work.file(stage, part))
    _require_disjoint(work, sorted(parts))
    return finish_set(out, work, sorted(parts), plan, loaded, None, device)


def variant(folder: Path, changes: str) -> Path:
    """The set in ``folder`` with the settings ``changes`` ("filter=none&synonyms=off") of its last stages."""
    pairs = override_pairs(tuple(changes.split("&")), "reference")
    key = hashlib.sha256(json.dumps([content_hash(read_manifest(folder)), sorted(pairs.items())]).encode()).hexdigest()
    place = folder / "variants" / key[:12]
    if (place / MANIFEST).is_file():
        return place
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        merge_sets([folder], draft, pairs)
        with contextlib.suppress(OSError):  # another process was faster
            draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return find_set(str(place))


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {n: {k: v for k, v in manifest["stages"][n].items() if k != "key"} for n in STAGES}


def _require_equal(folders: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> None:
    first = manifests[0]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        pairs = [(f"{kind} encoder", e, manifest["encoders"].get(kind)) for kind, e in first["encoders"].items()]
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
    """The settings of the first set, with those of the last stages overridden."""
    from typing import get_type_hints

    hints = get_type_hints(BuildSettings)
    late = [key for key in hints if key not in ("parser", "spacy_model", "zeta") and not key.startswith("pairing")]
    for key in overrides:
        if key not in late:
            raise unknown("setting of the filters", key, late, where="--set")
    values = {**manifest["settings"]["build"], **{k: parse_value(t, hints[k], k) for k, t in overrides.items()}}
    cell = manifest["settings"]["cell"]
    weights = {kind: name for kind, name in cell["backbones"].items() if kind != "reference"}
    regions = {f"regions.{key}": str(value) for key, value in cell["regions"].items() if key != "source"}
    protocol = {key: str(cell["protocol"][key]) for key in ("templates", "short_side", "long_side")}
    given = {"regions": cell["regions"]["source"], **regions, **protocol}
    try:
        plan = resolve_plan(cell["dataset"], {"parser": "lexicon", **given}, weights)
    except UsageError as error:
        raise InputError(f"the settings of the set are not known here: {error}") from None
    return plan._replace(build=BuildSettings(**values))


def _take(source: Path, target: Path) -> None:
    if not source.is_file():
        raise InputError(
            "a file of the stages is gone, without which sets cannot be united", where=str(source),
            fix="copy the folder stages along with the set",
        )  # fmt: skip
    if target.is_file() and os.path.samefile(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)


def _require_disjoint(work: Work, parts: Sequence[str]) -> None:
    """InputError where an image has been built into two sets."""
    from ovbench.training.reference_set.parts import read_lines

    seen: dict[str, str] = {}
    for part in parts:
        part_notes(work, part)
        for row in read_lines(work.file("captions", part)):
            if row["image"] in seen:
                raise InputError(
                    f"the image {row['image']} is in two sets", where=f"parts {seen[row['image']]}, {part}",
                    fix="divide the images with --shard K/N",
                )  # fmt: skip
            seen[row["image"]] = part
