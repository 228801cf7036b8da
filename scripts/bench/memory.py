"""Label one large image with a large vocabulary; print its memory above the loaded model, as JSON.

python scripts/bench/memory.py --classes 847 --size 1536 2048
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from ovbench.config.load import resolve
from ovbench.inference.pipeline import build_pipeline


def resident(name: str) -> int:
    """Return bytes of resident memory: ``VmRSS`` now, ``VmHWM`` at the peak since `forget_peak` (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="maskclip")
    parser.add_argument("--classes", type=int, default=847)
    parser.add_argument("--size", type=int, nargs=2, default=(1536, 2048), metavar=("H", "W"))
    parser.add_argument("--short-side", type=int, default=448)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    overrides = {"short_side": str(arguments.short_side), "crop": "224", "stride": "112"}
    cell = resolve(arguments.method, "mini", overrides)
    pipeline = build_pipeline(cell, (("thing",),))
    (words,) = pipeline.predictor.vocabularies
    embeddings = torch.randn(arguments.classes, words.embeddings.shape[1], generator=torch.Generator().manual_seed(0))
    index = torch.arange(arguments.classes)
    pipeline.predictor.vocabularies = [
        words._replace(embeddings=embeddings / embeddings.norm(dim=1, keepdim=True), class_index=index)
    ]
    noise = np.random.default_rng(0)
    pipeline.label(noise.integers(0, 255, (64, 64, 3), np.uint8))  # the model has run once
    image = noise.integers(0, 255, (*arguments.size, 3), np.uint8)
    forget_peak()
    before, start, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    labels = pipeline.label(image)
    print(
        json.dumps(
            {
                "method": arguments.method,
                "classes": arguments.classes,
                "image": list(labels.shape),
                "resized_short_side": arguments.short_side,
                "model_bytes": before,
                "bytes_over_the_model": resident("VmHWM") - before,
                "bytes_of_one_full_map": 4 * arguments.classes * labels.size,
                "seconds": round(time.perf_counter() - start, 2),
                "processor_seconds": round(time.process_time() - cpu, 2),
                "seconds_of_stages": {k: round(v, 2) for k, v in pipeline.predictor.seconds.items()},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
