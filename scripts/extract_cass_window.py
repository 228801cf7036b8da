"""Write one window of an official CASS case, beginning with the keys of both towers, as a small file.

    python scripts/extract_cass_window.py ../shared/parity/cass/city_pamr tests/data/parity/cass_window/city_pamr.npz

The file has the official results from these keys, the features and the text; graphs and attention are of one head.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

OF_WINDOWS = (
    "dino_spectrum", "clip_spectrum", "distance", "match", "match_weight", "singular_values", "singular_values_scaled",
    "global_similarity", "adjusted", "window_logits",
)  # fmt: skip
OF_HEADS = ("w_dino_graph", "w_fused", "w_attention")
WHOLE = ("w_clip_keys", "w_dino_keys_mapped", "w_patch_feature", "w_adjusted_text", "clusters", "global_vector")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    raw = json.loads((arguments.source / "case.json").read_text())
    window = int(re.search(r"window (\d+)", raw["stages"]["w_clip_keys"]["meaning"])[1])
    with np.load(arguments.source / "expected.npz") as expected, np.load(arguments.source / "inputs.npz") as inputs:
        kept = {name: expected[name] for name in WHOLE}
        kept |= {name: expected[name][window] for name in OF_WINDOWS}
        kept |= {name: expected[name][:1] for name in OF_HEADS}
        kept |= {"text": inputs["text"], "draws": inputs["svd_test_matrices"][window].astype(np.float32)}
    if len(kept["global_vector"]) > 1:
        kept["global_vector"] = kept["global_vector"][window : window + 1]
    origin = {key: raw[key] for key in ("method", "case", "official", "params", "stages")}
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.target, origin=np.array(json.dumps(origin)), **kept)


if __name__ == "__main__":
    main()
