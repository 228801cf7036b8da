"""Label one image of Cityscapes' size with methods that look across windows; print time and memory, one JSON line each.

    OMP_NUM_THREADS=1 python scripts/bench/whole_images.py

Towers have the published sizes and random weights, settings are those of Cityscapes, and region maps are SLIC's. Memory
is what is added to the loaded networks.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from memory import forget_peak, resident
from overhead import of_real_size

SIZE = (1024, 2048)
CASES = {
    "glaclip": ("glaclip", {}),
    "lposs": ("lposs", {}),
    "lposs+": ("lposs", {"pixels": "true"}),
    "ovstitcher": ("ovstitcher", {"regions": "slic", "descriptions": ""}),
    "corrclipv2": ("corrclipv2", {"regions": "slic"}),
}


def measure(name: str, size: tuple[int, int] = SIZE) -> dict[str, object]:
    """Return the figures of one method."""
    method, settings = CASES[name]
    task = of_real_size(method, "cityscapes", size, settings)
    forget_peak()
    before, start, worked = resident("VmRSS"), time.perf_counter(), time.process_time()
    task.run()
    return {
        "method": name,
        "image": list(size),
        "threads": torch.get_num_threads(),
        "networks_bytes": before,
        "bytes_over_the_networks": resident("VmHWM") - before,
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
        "seconds_of_stages": {k: round(v, 2) for k, v in task.pipeline.predictor.seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=CASES, action="append")
    for name in parser.parse_args().method or CASES:
        print(json.dumps(measure(name)), flush=True)


if __name__ == "__main__":
    main()
