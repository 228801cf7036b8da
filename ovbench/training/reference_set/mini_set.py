"""The reference set of `mini`, built on first use from generated images and captions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ovbench.backbones.checkpoint import file_sha256
from ovbench.training.mini_world import IMAGES, SEED, SingleProcess, mini_world
from ovbench.utils.paths import asset, cache_root


def mini_set() -> Path:
    """Return the folder of the set; another process may build it at the same time."""
    from ovbench.methods.reme.set_folder import MANIFEST
    from ovbench.training.reference_set.builder import Sources, build_set
    from ovbench.training.reference_set.settings import resolve_plan

    plan = resolve_plan("mini")
    folder = cache_root() / "reference" / f"mini-{_key(plan)}"
    if (folder / MANIFEST).is_file():
        return folder
    world = mini_world(IMAGES)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        sources = Sources(
            world / "images" / "train", str(world / "captions_train.json"), draft, workers=os.cpu_count() or 1
        )
        build_set(sources, plan, "cpu", SingleProcess())
        try:
            draft.rename(folder)
        except OSError:
            if not (folder / MANIFEST).is_file():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _key(plan: Any) -> str:
    """Return a hash of the settings, the encoders and the images."""
    settings = [dataclasses.asdict(plan.build), plan.cell.as_dict(), IMAGES, SEED]
    content = json.dumps([settings, file_sha256(asset("mini", "clip.safetensors")),
                          file_sha256(asset("mini", "dinov2.safetensors"))], sort_keys=True)  # fmt: skip
    return hashlib.sha256(content.encode()).hexdigest()[:12]
