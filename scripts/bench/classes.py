"""Measure scoring and deciding with many classes against the forward pass of ViT-B/16, in one run.

Writes results/benchmarks/classes.json: CPU seconds per image of 375 x 500 pixels, with full-size maps and by cells, and
the peak of memory by cells above that of the process before. The tower has random weights; the queries have a common
direction, as class names have, and tokens keep their differences.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from memory import forget_peak, resident
from timing import machine, spread

from ovbench.backbones.clip import ClipVision
from ovbench.backbones.clip_model import ImageShape, ImageTower
from ovbench.config.load import resolve
from ovbench.inference import window_cells
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Queries
from ovbench.utils.files import write_json
from ovbench.utils.provenance import versions
from ovbench.utils.registry import METHODS

ROOT = Path(__file__).parents[2]
SETTINGS = {"short_side": "336", "crop": "224", "stride": "112"}
FULL_SIZE = (21, 150, 847)  # with 10,000 classes, full-size maps take more memory than they are worth


def queries(count: int, width: int) -> Queries:
    """Return unit vectors with a cosine of about 0.7."""
    draw = torch.Generator().manual_seed(1)
    noise = torch.nn.functional.normalize(torch.randn(count, width, generator=draw), dim=-1)
    common = torch.nn.functional.normalize(torch.randn(1, width, generator=draw), dim=-1)
    return Queries(torch.nn.functional.normalize(common * 0.7**0.5 + noise * 0.3**0.5, dim=-1), torch.arange(count))


def image() -> np.ndarray:
    """Return a picture with areas of several sizes, uint8 (375, 500, 3)."""
    draw = torch.Generator().manual_seed(2)
    layers = [torch.rand(1, 3, n, n, generator=draw) for n in (4, 12, 60)]
    enlarged = [torch.nn.functional.interpolate(layer, (375, 500), mode="nearest") for layer in layers]
    return (sum(enlarged)[0] / 3 * 255).byte().permute(1, 2, 0).numpy()


def spent(predictor: Predictor, picture: np.ndarray, fewest: int, repeat: int) -> tuple[dict[str, float], np.ndarray]:
    """Return the smallest seconds of each stage, with the spread of their sum, and the labels."""
    best: dict[str, float] = {}
    sums = []
    with mock.patch.object(window_cells, "FEWEST_QUERIES", fewest):
        for _ in range(repeat):
            predictor.seconds = {}
            labels = predictor.label(picture)[0]
            seconds = {**predictor.seconds}
            sums.append(sum(seconds.values()))
            best = {stage: min(value, best.get(stage, value)) for stage, value in seconds.items()}
    return best | {"spread": spread(sums)}, labels


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--classes", type=int, nargs="*", default=[21, 150, 847, 10_000])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "classes.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    time.perf_counter = time.process_time  # other work on the machine does not count
    torch.manual_seed(0)
    tower = ClipVision(ImageTower(ImageShape(), 512, quick_gelu=True))
    cell = resolve("sclip", "mini", SETTINGS)
    method = METHODS.load("sclip")(Backbones(clip=tower), cell.params)
    picture, result = image(), {}
    predictor = Predictor(method, cell.protocol, [])
    for count in arguments.classes:
        predictor.clear_vocabularies()
        predictor.add_vocabulary(queries(count, 512), cell.protocol)
        forget_peak()
        before = resident("VmRSS")
        cells, labels = spent(predictor, picture, 0, arguments.repeat)
        grown = (resident("VmHWM") - before) >> 20
        entry = {"encode": cells["encode"], "score": cells["score"], "decide": cells["decide"], "memory_mib": grown}
        entry["spread"] = cells["spread"]
        entry["of_forward"] = (cells["score"] + cells["decide"]) / cells["encode"]
        if count in FULL_SIZE:
            maps, plain = spent(predictor, picture, 1 << 30, arguments.repeat)
            entry |= {"score_maps": maps["score"], "decide_maps": maps["decide"]}
            entry |= {"of_forward_maps": (maps["score"] + maps["decide"]) / maps["encode"]}
            entry |= {"pixels_that_differ": int((labels != plain).sum()), "labels": len(np.unique(plain))}
        result[str(count)] = {key: round(value, 3) for key, value in entry.items()}
        print(count, result[str(count)], flush=True)
    write_json(arguments.out, {"machine": machine(), "versions": versions(), "classes": result})
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
