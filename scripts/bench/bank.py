"""Measure memory and time of the exact search in a large bank of regions of CorrCLIPv2; print JSON.

    OMP_NUM_THREADS=1 python scripts/bench/bank.py --rows 1000000 --out /tmp/bank

The rows are random, and so are the regions of an image. The search compares all keys (float16), the vectors of a flat
index (float32), and the decoded vectors of an IVFPQ, whose codes are random. Anonymous memory is what the process owns;
pages of mapped files are not in it, because the system takes them back.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from memory import resident

from ovbench.methods.support.backbone import read_store
from ovbench.methods.support.bank import RegionBank, key_vectors, support_features
from ovbench.methods.support.index_file import Vectors, read_index
from ovbench.training.region_bank.index_writer import PARTS, write_index, write_store

BLOCK = 1 << 14
CLIP_WIDTH = 512
SAMPLE_S = 0.005


class Peak:
    """The largest anonymous memory of the process while a block runs."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def watch(self):
        self.bytes = 0
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(SAMPLE_S):
                self.bytes = max(self.bytes, resident("RssAnon"))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def random_store(path: Path, rows: int, width: int) -> None:
    """Write random rows, which are drawn some at a time."""
    generator = torch.Generator().manual_seed(width)
    blocks = [
        F.normalize(torch.randn(min(BLOCK, rows - start), width, generator=generator), dim=1).half()
        for start in range(0, rows, BLOCK)
    ]
    write_store(path, blocks)


def compressed(rows: int, width: int) -> Vectors:
    """Return the vectors of an IVFPQ of the official size with random codes."""
    generator = torch.Generator().manual_seed(0)
    lists = max(1, int(8 * rows**0.5))
    return Vectors(
        ids=torch.arange(rows), inner_product=False,
        codes=torch.randint(256, (rows, PARTS), generator=generator, dtype=torch.uint8),
        lists=torch.randint(lists, (rows,), generator=generator).sort().values,
        centres=F.normalize(torch.randn(lists, width, generator=generator), dim=1),
        codebooks=torch.randn(PARTS, 256, width // PARTS, generator=generator) / width**0.5,
    )  # fmt: skip


def measure(out: Path, rows: int, width: int, regions: int) -> dict[str, object]:
    """Return the figures of each search."""
    out.mkdir(parents=True, exist_ok=True)
    keys, main, index = out / "x_radiov3.pt", out / "x_metaclip_b.pt", out / "x_radiov3.faiss"
    random_store(keys, rows, width)
    random_store(main, rows, CLIP_WIDTH)
    write_index(index, read_store(keys), "flat")
    queries = F.normalize(torch.randn(regions, width, generator=torch.Generator().manual_seed(1)), dim=1)
    found: dict[str, object] = {"rows": rows, "width": width, "regions": regions, "threads": torch.get_num_threads()}
    sources = {
        "keys": lambda: key_vectors(read_store(keys)),
        "flat": lambda: read_index(index),
        "ivfpq": lambda: compressed(rows, width),
    }
    for name, source in sources.items():
        peak, before, start = Peak(), resident("RssAnon"), time.perf_counter()
        with peak.watch():
            bank = RegionBank(source(), read_store(main))
            loaded = time.perf_counter()
            kept = resident("RssAnon") - before
            worked = time.process_time()
            support_features(bank.main, bank.nearest(queries, 20).row)
        found[name] = {
            "file_bytes": {"keys": keys, "flat": index}[name].stat().st_size if name != "ivfpq" else None,
            "bytes_kept": kept,
            "peak_bytes_over_the_start": peak.bytes - before,
            "load_seconds": round(loaded - start, 2),
            "image_seconds": round(time.perf_counter() - loaded, 2),
            "image_processor_seconds": round(time.process_time() - worked, 2),
        }
        del bank
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--regions", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.out, arguments.rows, arguments.width, arguments.regions), indent=1))


if __name__ == "__main__":
    main()
