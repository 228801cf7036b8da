"""Write the steps of official parity cases that only their method has, each as a small file of tests/data.

    python scripts/extract_official_steps.py ../shared/parity tests/data/parity/steps

A complete case has the weights of all blocks, which are ordinary ones. A file of steps begins with official tokens, and
has the weights of the last block, the results of one window, and of some arrays every fourth row.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

EVERY = 4


class Steps(NamedTuple):
    """The arrays of a case to keep.

    Attributes:
        whole: Names of arrays in full.
        of_window: Arrays per window, of which one window is kept.
        sampled: Arrays of which every fourth row is kept.
        weights: Weights of CLIP to keep: of the "last" attention and what follows, of the "projection", or none.
        inputs: Arrays of the inputs.
    """

    whole: tuple[str, ...]
    of_window: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    weights: str = "last"
    inputs: tuple[str, ...] = ("text",)


CALIBRATED = ("w_last", "w_last_aggregated", "w_multi", "w_multi_aggregated", "w_sum", "w_patch_feature")
CASES = {
    "scclip/other_levels": Steps(
        ("w_tokens_before_last", "w_pre_similarity", "w_post_similarity_cut", "w_multi_sum"),
        ("lof", "outliers", "window_logits"), ("w_tokens_repaired", "w_tokens_aggregated", *CALIBRATED),
    ),
    "sfp/few_outliers": Steps(
        ("w_tokens_before_last", "w_similarity_cut", "w_post_similarity_cut", "w_multi_sum"),
        ("class_to_patch", "patch_to_itself", "outliers", "window_logits"),
        ("w_similarity_attention", "w_tokens_repaired", "w_tokens_aggregated", *CALIBRATED),
    ),
    "dihclip/whole": Steps(
        ("w_tokens_before_last_patches", "w_pre_similarity", "w_post_similarity_cut", "w_multi_sum"),
        ("last_entropy", "last_heads", "multi_entropy", "multi_heads", "window_logits"),
        ("w_tokens_aggregated", *CALIBRATED),
    ),
    "rfclip/pc60_slide": Steps(
        ("w_level_before", "w_guide", "w_patch_feature", "clusters", "global_vector", "w_adjusted_text"),
        ("distractors", "global_similarity", "adjusted", "window_logits"),
        ("w_level_denoised", "w_similarity", "w_guide_enhanced", "w_decoded_1", "w_decoded_2"), weights="projection",
    ),
    "pearl/city_slide": Steps(
        ("w_tokens_before_last", "w_correlation", "w_rotation", "windows", "window_logits", "text_matrix", "grid_gray",
         "agree", "data_weight", "edge_h", "edge_v", "grid_logits", "solution"),
        (), ("w_last", "w_patch_feature"),
    ),
    "glaclip/voc21": Steps(
        ("keys", "rows", "similarity", "count_1", "count_2", "proxy_mean", "gamma", "attention"), weights="",
        inputs=(),
    ),
    "lposs/slide": Steps(
        ("windows", "locations", "dino_features", "clip_scores", "rows", "affinity", "degree", "normalised",
         "patch_scores"),
        weights="", inputs=(),
    ),
    "ovstitcher/b16_stitch_bg": Steps(
        ("dino_feats", "similarity_mean", "masks_dino", "region_distance", "masks_merged", "scope_count", "attn_rows"),
        weights="", inputs=(),
    ),
    "corrclipv2/radio_b16_bank": Steps(
        ("region_queries", "neighbour_distances", "neighbour_ids", "support_features_main", "support_scores_main"),
        weights="", inputs=("text", "bank_main", "bank_index_vectors", "bank_index_ids"),
    ),
}  # fmt: skip
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(ln_1|attn)\.")


def weights_of(source: Path, which: str, layers: int) -> dict[str, np.ndarray]:
    """Return tensors of the CLIP of a case by their official names, without those of other blocks than the last."""
    kept = {}
    for name, value in load_file(source / "weights.safetensors").items():
        tower, key = name.split(".", 1)
        key = key.removeprefix("visual.")
        block = BLOCK.match(key)
        last = which == "last" and block is not None and int(block[1]) == layers - 1
        if tower == "clip" and (last or key.startswith("ln_post.") or key == "proj"):
            kept[f"weight.{key}"] = value
    return kept


def extract(source: Path, target: Path, steps: Steps) -> None:
    """Write the steps of the case ``source`` to the file ``target``."""
    raw = json.loads((source / "case.json").read_text())
    found = re.search(r"window (\d+)", " ".join(stage["meaning"] for stage in raw["stages"].values()))
    window = int(found[1]) if found else 0
    with np.load(source / "expected.npz") as expected, np.load(source / "inputs.npz") as inputs:
        kept = {name: expected[name] for name in steps.whole}
        kept |= {name: expected[name][window] for name in steps.of_window}
        kept |= {name: expected[name][::EVERY] for name in steps.sampled}
        kept |= {name: inputs[name] for name in steps.inputs}
    if steps.weights:
        kept |= weights_of(source, steps.weights, raw["models"]["clip"]["layers"])
    origin = {key: raw[key] for key in ("method", "case", "official", "models", "params", "classes")}
    origin |= {"window": window, "stages": {name: raw["stages"][name] for name in raw["stages"] if name in kept}}
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, origin=np.array(json.dumps(origin)), **kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    for case, steps in CASES.items():
        extract(arguments.source / case, arguments.target / f"{case.split('/')[0]}.npz", steps)


if __name__ == "__main__":
    main()
