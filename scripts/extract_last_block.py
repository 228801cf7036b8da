"""Keep the last block of an official parity case, with what enters and what leaves it, small enough for the repository.

    python scripts/extract_last_block.py ../shared/parity/sclip/base tests/data/parity/last_block/sclip.npz

The official code's tokens before the last block and its features behind it belong to one window; the weights are those
of that block, ``ln_post`` and ``proj`` (fp16, as in the case).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

KEPT = ("w_tokens_before_last", "w_patch_feature", "w_dino_feature", "w_alt_value_only", "w_alt_plain_clip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    raw = json.loads((arguments.source / "case.json").read_text())
    clip = raw["models"]["clip"]
    prefix = f"clip.visual.transformer.resblocks.{clip['layers'] - 1}."
    weights = {}
    for name, value in load_file(arguments.source / "weights.safetensors").items():
        if name.startswith(prefix):
            weights["block." + name.removeprefix(prefix)] = value
        elif name.startswith(("clip.visual.ln_post", "clip.visual.proj")):
            weights[name.removeprefix("clip.visual.")] = value
    with np.load(arguments.source / "expected.npz") as expected:
        stages = {name: expected[name] for name in KEPT if name in expected.files}
    origin = {key: raw[key] for key in ("method", "case", "official", "params")} | {"clip": clip}
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.target, origin=np.array(json.dumps(origin)), **weights, **stages)


if __name__ == "__main__":
    main()
