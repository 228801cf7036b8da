"""Measure ovbench on a GPU; writes results/benchmarks/gpu.json. Without a GPU, it measures nothing.

python scripts/bench/gpu.py                         everything
python scripts/bench/gpu.py --device cpu --quick    the same code with small sizes, as a test; nothing is written

Measured are: windows per second of CLIP towers by batch, precision and compilation, as a fraction of the speed of
matrix products with the same precision; images per second by batch, classes and precision, and the share of the tower;
images per second of CorrCLIP, CASS and FreeCP; the decision among 847 classes in three forms; images per second of the
readers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from overhead import of_real_size, on_mini
from timing import fastest
from torch import nn

from ovbench.backbones.clip import ClipVision
from ovbench.config.load import Protocol
from ovbench.data.decode import read_image
from ovbench.inference.decision import Leading, tile_elements
from ovbench.inference.precision import PRECISIONS, Execution, execute, refuse_tf32
from ovbench.inference.predictor import Predictor
from ovbench.inference.sliding_window import WindowMean, window_grid
from ovbench.inference.window_cells import WindowCells
from ovbench.methods.base import Backbones, Queries
from ovbench.methods.bilinear import enlarged_tiles
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.ops import Decision, Pad, uncut
from ovbench.utils import provenance as env
from ovbench.utils.files import write_json


class Tower(NamedTuple):
    """The size of a vision tower, and the side of its windows in pixels."""

    name: str
    width: int
    layers: int
    heads: int
    patch: int
    side: int

    def build(self) -> ClipVision:
        torch.manual_seed(0)
        visual = open_clip.transformer.VisionTransformer(
            image_size=224, patch_size=self.patch, width=self.width, layers=self.layers, heads=self.heads,
            mlp_ratio=4, output_dim=512, act_layer=open_clip.transformer.QuickGELU,
        )  # fmt: skip
        return ClipVision(visual)

    def flops(self) -> float:
        """Return the operations of all matrix products for one window; multiplication and addition count as two."""
        tokens = (self.side // self.patch) ** 2 + 1
        return self.layers * (24 * tokens * self.width**2 + 4 * tokens**2 * self.width)


REAL = (Tower("B/16 at 224", 768, 12, 12, 16, 224), Tower("B/16 at 448", 768, 12, 12, 16, 448),
        Tower("L/14 at 336", 1024, 24, 16, 14, 336))  # fmt: skip
NO_PAD = Pad(0, 0, 0, 0)
TOY = (Tower("toy", 64, 2, 2, 16, 64),)


def seconds(device: torch.device, function: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the fastest of several calls, after one call to compile and warm up."""
    function()
    return fastest(function, repeats, device)


@torch.inference_mode()
def ceilings(device: torch.device, side: int, repeats: int) -> dict[str, float]:
    """Return FLOP/s of square matrix products in every precision, and bytes/s of a copy."""
    found = {}
    for name, dtype in PRECISIONS.items():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * side**3 / seconds(device, lambda a=a, b=b: a @ b, repeats)
    source = torch.empty(side * side, device=device)
    target = torch.empty_like(source)
    found["copy_bytes"] = 2 * source.nbytes / seconds(device, lambda: target.copy_(source), repeats)
    return found


@torch.inference_mode()
def towers(device: torch.device, quick: bool, ceiling: dict[str, float], repeats: int) -> list[dict[str, Any]]:
    """Measure windows per second."""
    rows = []
    batches = (1, 4) if quick else (1, 2, 6, 16, 32, 64, 128)
    for tower, precision, compiled in itertools.product(TOY if quick else REAL, PRECISIONS, (False, True)):
        if quick and compiled:
            continue  # minutes on a CPU
        vision = tower.build().to(device)
        execute(nn.ModuleList([vision]), Execution(precision, compiled))
        for batch in batches:
            windows = torch.randn(batch, 3, tower.side, tower.side, device=device)
            spent = seconds(device, lambda v=vision, w=windows: v.trunk(v.embed(w)[0], until=None), repeats)
            rate = batch / spent
            rows.append(
                {
                    "tower": tower.name, "precision": precision, "compile": compiled, "batch": batch,
                    "windows_per_s": round(rate, 2),
                    "share_of_ceiling": round(rate * tower.flops() / ceiling[precision], 4),
                }
            )  # fmt: skip
    return rows


def images(device: torch.device, quick: bool, repeats: int) -> list[dict[str, Any]]:
    """Measure images of VOC's size per second, from pixels to labels on the host, and the share of the tower."""
    tower = TOY[0] if quick else REAL[0]
    image = np.random.default_rng(0).integers(0, 255, (375, 500, 3), np.uint8)
    protocol = Protocol(short_side=int(tower.side * 1.5), crop=tower.side, stride=tower.side // 2)
    number = 4 if quick else 64
    batches = [("fp32", 21, batch) for batch in ((0, 8) if quick else (0, 8, 16, 64, 128))]
    by_classes = [(precision, classes, 32) for precision in ("fp32", "fp16") for classes in (21, 150, 847)]
    rows = []
    for precision, classes, batch in batches + ([] if quick else by_classes):
        words = F.normalize(torch.randn(classes, 512, generator=torch.Generator().manual_seed(0)), dim=-1)
        method = MaskCLIP(Backbones(clip=tower.build())).to(device)
        execute(method, Execution(precision))
        predictor = Predictor(method, protocol, [Queries(words, torch.arange(classes))])
        spent = seconds(device, lambda p=predictor, b=batch: labelled([image] * number, p, b), repeats)
        windows = number * len(predictor.prepare(image).boxes)
        alone = seconds(device, lambda m=method, n=windows: bare(m.clip, n, tower.side, device), repeats)
        rows.append(
            {
                "precision": precision, "classes": classes, "batch": batch, "images_per_s": round(number / spent, 2),
                "share_of_tower": round(alone / spent, 3),
            }
        )  # fmt: skip
    return rows


def labelled(pictures: list[np.ndarray], predictor: Predictor, batch: int, regions: Any = None) -> None:
    """Label images in shared batches."""
    batcher = predictor.batcher(batch)
    done = [one for number, image in enumerate(pictures) for one in batcher.add(number, image, regions)]
    found = [prediction.labels for prediction in (*done, *batcher.flush())]
    assert len(found) == len(pictures) and all(isinstance(labels, list) for labels in found), found


@torch.inference_mode()
def bare(vision: ClipVision, windows: int, side: int, device: torch.device) -> None:
    """Run all blocks of a tower on so many windows, 32 at a time."""
    batch = torch.zeros(32, 3, side, side, device=device)
    for start in range(0, windows, 32):
        vision.trunk(vision.embed(batch[: windows - start])[0], until=None)


def methods(device: torch.device, quick: bool, repeats: int) -> list[dict[str, Any]]:
    """Measure images per second of methods with more than a tower, with the settings of VOC20; maps are given."""
    rows = []
    for name, precision in itertools.product(("corrclip", "cass", "freecp"), ("fp32",) if quick else ("fp32", "fp16")):
        task = on_mini(name, 1) if quick else of_real_size(name)
        pipeline, number = task.pipeline.to(str(device)), 1 if quick else 32
        execute(pipeline.method, Execution(precision))
        batch = 0 if quick or not pipeline.method.windowwise else 32
        pictures, regions = task.images[:1] * number, task.regions[0]
        spent = seconds(
            device, lambda p=pipeline, i=pictures, b=batch, r=regions: labelled(i, p.predictor, b, r), repeats
        )
        rows.append({"method": name, "precision": precision, "batch": batch, "images_per_s": round(number / spent, 2)})
    return rows


@torch.inference_mode()
def many_classes(device: torch.device, quick: bool, ceiling: dict[str, float], repeats: int) -> dict[str, Any]:
    """Measure the decision among 847 classes from the scores of windows, in three forms.

    Full-size maps, cells with plain operations, and cells with a compiled function. Traffic that no form can avoid is
    one read of the cells; for comparison, one write and one read of full-size maps is given.
    """
    classes, size, side = (130, (60, 80), 32) if quick else (847, (512, 683), 336)
    boxes = window_grid(size, side, side // 3)
    scores = torch.randn(len(boxes), classes, side // 16, side // 16, device=device)
    index, decision, elements = torch.arange(classes, device=device), Decision(), tile_elements(device)
    cells = WindowCells(boxes, NO_PAD, size, size)
    cells.add(scores, boxes)

    def by_maps() -> list[torch.Tensor]:
        mean = WindowMean(size)
        for box, window in zip(boxes, scores, strict=True):
            mean.add(uncut(window[None], box.size, NO_PAD), [box])
        tiles = enlarged_tiles(mean.result(), size, elements)
        return [Leading(index, decision).add(tile.values).labels() for tile in tiles]

    forms = {"maps": by_maps, "cells": lambda: cells.labels(index, decision, elements)}
    if not quick:  # a CPU has another form for cells
        forms["cells_compiled"] = lambda: cells.labels(index, decision, elements, compiled=True)
    spent = {name: round(seconds(device, form, repeats), 6) for name, form in forms.items()}
    copy = 2 * 4 * classes * size[0] * size[1] / ceiling["copy_bytes"]
    return {"classes": classes, "size": list(size), "seconds": spent, "seconds_of_a_copy_of_maps": round(copy, 6)}


def readers(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Measure decoded JPEG files of VOC's size per second, by number of threads."""
    number = 8 if quick else 400
    noise = np.random.default_rng(0).integers(0, 255, (47, 63, 3), np.uint8)
    path = folder / "image.jpg"
    cv2.imwrite(str(path), cv2.resize(noise, (500, 375)))
    rows = []
    for threads in (1, 2) if quick else (1, 2, 4, 8, 16):
        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            list(pool.map(read_image, [path] * number))
            rows.append({"threads": threads, "images_per_s": round(number / (time.perf_counter() - start), 1)})
    return rows


def measure(device: torch.device, folder: Path, *, quick: bool, repeats: int) -> dict[str, Any]:
    refuse_tf32()
    ceiling = ceilings(device, 128 if quick else 8192, repeats)
    return {
        "device": env.device_name(str(device)),
        "torch": torch.__version__,
        "ceiling_per_s": {name: float(f"{value:.4g}") for name, value in ceiling.items()},
        "towers": towers(device, quick, ceiling, repeats),
        "images": images(device, quick, repeats),
        "methods": methods(device, quick, repeats),
        "many_classes": many_classes(device, quick, ceiling, repeats),
        "readers": readers(folder, quick),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes; nothing is written")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing is measured", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(device, Path(folder), quick=arguments.quick, repeats=arguments.repeats)
    print(json.dumps(found, indent=1))
    if not arguments.quick:
        write_json(arguments.out / "gpu.json", found)


if __name__ == "__main__":
    main()
