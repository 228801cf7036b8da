"""Measure the share of operations in half precision with --precision; writes results/benchmarks/half_share.json.

OMP_NUM_THREADS=1 python scripts/bench/half_share.py [METHOD...]

Towers of the published depth and a quarter of the width, on windows with a quarter of the side: so attention and the
other products have the proportions of the published sizes. Random weights; bf16 in place of fp16.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import real_towers
import timm
from overhead import of_real_size

from ovbench.evaluation.cost import LoadedImages, count_flops
from ovbench.inference.precision import Execution, execute
from ovbench.utils.files import write_json
from ovbench.utils.registry import METHODS

OUT = Path(__file__).parents[2] / "results" / "benchmarks" / "half_share.json"
WIDTH, JOINT, HEAD, SIDE = 192, 128, 16, 112
QUARTER = {"short_side": f"{SIDE}", "crop": f"{SIDE}", "stride": f"{SIDE // 2}"}
OWN: dict[str, dict[str, str]] = {
    "reme": {"regions": "slic"}, "corrclipv2": {"regions": "slic"}, "corrclip": {"regions": "slic"} | QUARTER,
    "ovstitcher": {"regions": "slic"} | QUARTER, "rfclip": {"repair": "0"} | QUARTER,
}  # fmt: skip


def narrow_clip(architecture: str, config: Any = open_clip.get_model_config) -> dict[str, Any]:
    """Return open_clip's configuration with a quarter of the width."""
    found = config(architecture)
    return {**found, "embed_dim": JOINT, "vision_cfg": found["vision_cfg"] | {"width": WIDTH, "head_width": HEAD}}


def narrow_vit(architecture: str, make: Any = timm.create_model, **more: Any) -> Any:
    """Return timm's model with a quarter of the width."""
    return make(architecture, embed_dim=WIDTH, **more)


def share(name: str) -> float | None:
    """Return the share of a method."""
    task = of_real_size(name, "voc20", (SIDE, SIDE), OWN.get(name, QUARTER))
    execute(task.pipeline.method, Execution("bf16"))
    return count_flops(task.pipeline.predictor.label, LoadedImages(task.images, task.regions, [])).half_share


def main() -> None:
    """Measure all methods, or the named ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*")
    chosen = parser.parse_args().methods or METHODS.names()
    shares: dict[str, float | None] = {}
    with (
        mock.patch.object(open_clip, "get_model_config", narrow_clip),
        mock.patch.object(timm, "create_model", narrow_vit),
        mock.patch.dict(real_towers.WIDTHS, text=JOINT, visual=WIDTH),
    ):
        for name in chosen:
            try:
                shares[name] = share(name)
            except Exception as error:  # a backbone without a narrow form
                print(f"{name}: {type(error).__name__}: {error}")
                continue
            print(f"{name} {shares[name]}", flush=True)
    if len(chosen) > 1:
        write_json(OUT, shares)


if __name__ == "__main__":
    main()
