"""The bank of `mini`, built on first use from generated images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ovbench.backbones.checkpoint import file_sha256
from ovbench.methods.support.bank_files import MINI
from ovbench.training.mini_world import SEED, SingleProcess, mini_world
from ovbench.training.region_bank.build_state import BankSources
from ovbench.training.region_bank.builder import build_bank
from ovbench.training.region_bank.settings import resolve_bank_plan
from ovbench.utils.cached_folder import cached_folder
from ovbench.utils.paths import asset

IMAGES = 60


def mini_bank() -> Path:
    """Return FOLDER/NAME of the bank; another process may build it at the same time."""
    plan = resolve_bank_plan(MINI)
    networks = [file_sha256(asset("mini", f"{name}.safetensors")) for name in ("clip", "dino", "dinov2")]
    content = json.dumps([plan.cell.as_dict(), plan.build.__dict__, plan.vfm, networks, IMAGES, SEED], sort_keys=True)

    def build(folder: Path) -> None:
        sources = BankSources(mini_world(IMAGES) / "images" / "train", folder / MINI)
        build_bank(sources, plan, processes=SingleProcess())

    return cached_folder("banks", f"mini-{hashlib.sha256(content.encode()).hexdigest()[:12]}", build) / MINI
