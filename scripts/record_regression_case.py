"""Record a regression case for the tests: settings of a parity case, a smaller random tower, values of ovbench.

    python scripts/record_regression_case.py path/to/parity/cass/voc21_whole tests/data/regression/cass/small

Some parity cases have too many weights for the repository. This script uses the settings and classes of such a case at
half the size in pixels. The expected values come from ovbench, at a commit that passes the official cases. A regression
case shows that a number has changed and says nothing about the official code: its "kind" is "regression" and its
"official" is null.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovbench.parity.adapters import numpy_value, run
from ovbench.parity.case import read_case
from ovbench.parity.check import check_case
from ovbench.parity.towers import clip_module, dino_module

WIDTH = 32
KEPT = ("feature", "window_logits", "window_scores", "logits_full", "full_scores", "logits_after_pamr", "scores")
HALVED = ("slide_crop", "slide_stride", "pad_multiple")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    record(arguments.source, arguments.target, torch.Generator().manual_seed(arguments.seed))


def record(source: Path, target: Path, generator: torch.Generator) -> None:
    raw = json.loads((source / "case.json").read_text())
    with np.load(source / "inputs.npz") as archive:
        inputs = {name: archive[name] for name in archive.files}
    target.mkdir(parents=True, exist_ok=True)
    raw["models"] = {name: smaller(spec) for name, spec in raw["models"].items()}
    weights: dict[str, Tensor] = {}
    for name, spec in raw["models"].items():
        weights |= {f"{name}.{key}": value for key, value in random_weights(spec, generator).items()}
    save_file(weights, target / "weights.safetensors")
    save_arrays(target / "inputs.npz", smaller_inputs(raw, inputs, generator))

    stages = {name: stage for name, stage in raw["stages"].items() if any(part in name for part in KEPT)}
    raw |= {
        "case": target.name,
        "kind": "regression",
        "official": None,
        "about": "settings of an official case on a smaller tower; recorded from this package",
        "stages": stages,
        "params": smaller_params(raw["params"]),
        "notes": "",
    }
    for key in ("sensitivity", "trap_sensitivity", "noise", "decision_margins", "class_share"):
        raw.pop(key, None)
    raw["observed"] = {"window": (raw.get("observed") or {}).get("window", 0)}
    write_case(target, raw)

    choose_texts(target, window=raw["observed"]["window"], generator=generator)
    values = run(read_case(target))
    window = raw["observed"]["window"]
    expected = {name: sampled(numpy_value(values[name](window)), stages[name]) for name in list(stages)}
    expected["labels"] = numpy_value(values["labels"](None)).astype(np.int16)
    save_arrays(target / "expected.npz", expected)
    write_case(target, raw)
    report = check_case(target)
    size = sum(file.stat().st_size for file in target.iterdir())
    print(json.dumps({"case": report.case, "passed": report.passed, "bytes": size, "labels": histogram(expected)}))


def smaller(spec: dict[str, Any]) -> dict[str, Any]:
    half = {key: spec[key] // 2 for key in ("patch_size", "image_size")}
    return spec | half | {"width": WIDTH, "heads": 2} | ({"embed_dim": WIDTH} if "embed_dim" in spec else {})


def smaller_params(params: dict[str, Any]) -> dict[str, Any]:
    params = params | {key: params[key] // 2 for key in HALVED if params.get(key)}
    if params.get("resize"):
        long_side, short_side = params["resize"]["scale"]
        params["resize"] = params["resize"] | {"scale": [long_side, short_side // 2]}
    params["output_size"] = [side // 2 for side in params["output_size"]]
    return params


def smaller_inputs(
    raw: dict[str, Any], inputs: dict[str, np.ndarray], generator: torch.Generator
) -> dict[str, np.ndarray]:
    h, w = inputs["image"].shape[:2]
    made = {"image": cv2.resize(inputs["image"], (w // 2, h // 2), interpolation=cv2.INTER_AREA)}
    for name in ("text", "text_llm"):
        if name in inputs:
            text = torch.randn(len(inputs[name]), WIDTH, generator=generator)
            made[name] = torch.nn.functional.normalize(text, dim=-1).numpy()
    return made


def choose_texts(folder: Path, window: int, generator: torch.Generator) -> None:
    """Replace the text embeddings by directions in which patches of a window differ, so that classes compete."""
    values = run(read_case(folder))
    stage = "w_patch_feature" if "w_patch_feature" in values else "patch_feats"
    features = torch.from_numpy(numpy_value(values[stage](window)))
    features = torch.nn.functional.normalize(features, dim=-1)
    apart = torch.nn.functional.normalize(features - 0.9 * features.mean(0), dim=-1)
    with np.load(folder / "inputs.npz") as archive:
        inputs = {name: archive[name] for name in archive.files}
    chosen = [0]
    while len(chosen) < len(inputs["text"]):  # the patch farthest from those chosen so far
        chosen.append(int((apart @ apart[chosen].T).amax(1).argmin()))
    inputs["text"] = apart[chosen].numpy()
    if "text_llm" in inputs:
        noise = 0.1 * torch.randn(len(chosen), WIDTH, generator=generator)
        inputs["text_llm"] = torch.nn.functional.normalize(apart[chosen] + noise, dim=-1).numpy()
    save_arrays(folder / "inputs.npz", inputs)


def random_weights(spec: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """Return fp16 weights, with matrices scaled so that the patches of a random tower differ."""
    prefix, module = {"clip_vit": ("visual.", clip_module), "dino_vit": ("", dino_module)}[spec["kind"]]
    shapes = {name: value.shape for name, value in module(spec).state_dict().items()}
    made = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) == 1 and name.endswith("weight"):  # a layer norm
            value = 1 + 0.1 * value
        elif len(shape) == 1 and not name.endswith("embedding"):
            value = 0.1 * value
        elif "pos" not in name and "token" not in name and len(shape) > 1:
            value = 1.2 * value / np.sqrt(shape[0] if name == "proj" else np.prod(shape[1:]))
        made[prefix + name] = value.half()
    return made


def sampled(value: np.ndarray, stage: dict[str, Any]) -> np.ndarray:
    return value[:, ::4, ::4] if "[:, ::4, ::4]" in stage["meaning"] else value


def histogram(expected: dict[str, np.ndarray]) -> dict[str, int]:
    return {str(k): int(v) for k, v in zip(*np.unique(expected["labels"], return_counts=True), strict=True)}


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, **arrays)


def write_case(folder: Path, raw: dict[str, Any]) -> None:
    (folder / "case.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
