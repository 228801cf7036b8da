"""Measure time and memory of `ovbench reference build` by the number of images.

    python scripts/bench/reference_scale.py --images 2500 5000 10000 20000 --out /tmp/scale

It draws small images with captions, builds a set from the first N images in a new process, and prints one JSON line per
size: wall and processor seconds per image, peak resident memory, and counts. The encoders of mini and SLIC regions are
used, so that the time of networks is small. Every image is new, so nothing comes from a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

COLOURS = {"red": (205, 35, 40), "blue": (35, 75, 205), "green": (20, 165, 85), "yellow": (245, 215, 45)}
THINGS = ("ball", "box", "ring", "cross", "triangle", "diamond")
GROUNDS = ("grass", "sand", "water", "snow", "gravel", "road")
SIDE = 64


def draw(folder: Path, count: int, seed: int) -> Path:
    """Draw ``count`` images of two things on a ground, and return the file of their captions."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.jsonl").open("w") as captions:
        for number in range(count):
            image = np.full((SIDE, SIDE, 3), rng.integers(60, 200, 3), np.uint8)
            names = []
            for _ in range(2):
                colour, (y, x), side = rng.choice(list(COLOURS)), rng.integers(0, SIDE // 2, 2), rng.integers(12, 28)
                image[y : y + side, x : x + side] = COLOURS[colour]
                names.append(f"a {colour} {rng.choice(THINGS)}")
            image = (image + rng.integers(0, 16, image.shape)).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / "images" / f"{number:07d}.png"), image[..., ::-1])
            row = {"image_id": f"{number:07d}", "caption": f"{names[0]} and {names[1]} on {rng.choice(GROUNDS)}"}
            captions.write(json.dumps(row) + "\n")
    return folder / "captions.jsonl"


def measure(folder: Path, out: Path) -> dict[str, object]:
    """Build a set in this process; return time and memory."""
    from ovbench.evaluation.distributed import ProcessGroup
    from ovbench.training.reference_set.builder import Sources, build_set
    from ovbench.training.reference_set.settings import resolve_plan

    settings = {"regions": "slic", "regions.segments": "8", "short_side": str(SIDE), "pairing_short_side": str(SIDE)}
    start, worked = time.perf_counter(), time.process_time()
    sources = Sources(folder / "images", str(folder / "captions.jsonl"), out)
    manifest = build_set(sources, resolve_plan("mini", settings), "cpu", ProcessGroup())
    spent, worked, counts = time.perf_counter() - start, time.process_time() - worked, manifest["counts"]
    return {
        "images": counts["images"],
        "seconds": round(spent, 1),
        "seconds_per_image": round(spent / counts["images"], 5),
        "cpu_seconds_per_image": round(worked / counts["images"], 5),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "base_pairs": counts["base_pairs"],
        "final_segments": counts["final_segments"],
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[2500, 5000, 10000, 20000])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.out)))
        return
    for number, count in enumerate(arguments.images):
        folder = arguments.out / str(count)
        shutil.rmtree(folder, ignore_errors=True)
        draw(folder, count, arguments.seed + number)
        command = [sys.executable, __file__, "--measure", str(folder), "--out", str(folder / "set")]
        own_cache = {**os.environ, "OVBENCH_CACHE": str(folder / "cache")}
        done = subprocess.run(command, check=True, env=own_cache, stdout=subprocess.PIPE, text=True)
        print(done.stdout.strip(), flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
