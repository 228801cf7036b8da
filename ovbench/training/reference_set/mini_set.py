"""The reference set of `mini`, built on first use from generated images and captions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ovbench.backbones.checkpoint import file_sha256
from ovbench.training.mini_world import IMAGES, SEED, SingleProcess, mini_world
from ovbench.utils.cached_folder import cached_folder
from ovbench.utils.paths import asset


def mini_set() -> Path:
    """Return the folder of the set; another process may build it at the same time."""
    from ovbench.training.reference_set.builder import Sources, build_set
    from ovbench.training.reference_set.settings import resolve_plan

    plan = resolve_plan("mini")

    def build(folder: Path) -> None:
        world = mini_world(IMAGES)
        captions = str(world / "captions_train.json")
        build_set(
            Sources(world / "images" / "train", captions, folder, workers=os.cpu_count() or 1), plan, "cpu",
            SingleProcess(),
        )  # fmt: skip

    return cached_folder("reference", f"mini-{_key(plan)}", build)


def _key(plan: Any) -> str:
    """Return a hash of the settings, the encoders and the images."""
    settings = [dataclasses.asdict(plan.build), plan.cell.as_dict(), IMAGES, SEED]
    content = json.dumps([settings, file_sha256(asset("mini", "clip.safetensors")),
                          file_sha256(asset("mini", "dinov2.safetensors"))], sort_keys=True)  # fmt: skip
    return hashlib.sha256(content.encode()).hexdigest()[:12]
