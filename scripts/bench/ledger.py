"""Compare the lines of the ledger with SQLite, in one run; writes results/benchmarks/ledger.json.

python scripts/bench/ledger.py

Both store the counts of an image durably before the next image. SQLite stores the three lists as int64 bytes in a row,
in WAL mode: with synchronous=FULL, which is as durable as a flushed line, and with NORMAL, which may lose the last
images in a power failure. Figures are ratios to the lines; absolute times depend on the disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.evaluation.ledger import Entry, LedgerWriter, read_ledger
from ovbench.metrics.confusion import PixelCounts, count_pixels
from ovbench.utils import provenance as env
from ovbench.utils.files import write_json

HEADER = {"cell": "a benchmark of the ledger"}


class Lines:
    """The ledger: one JSON line with a checksum per image."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.part = LedgerWriter(folder, "0", HEADER)

    def add(self, image: str, counts: PixelCounts) -> None:
        self.part.add(Entry(image, counts, None, {"label": 1.0}))

    def close(self) -> None:
        self.part.close()

    def read(self) -> dict[str, PixelCounts]:
        return {image: entry.counts for image, entry in read_ledger(self.folder, HEADER).items()}


class Rows:
    """A table of SQLite, with one transaction per image."""

    def __init__(self, folder: Path, synchronous: str):
        folder.mkdir()
        self.path = folder / "ledger.sqlite"
        self.base = sqlite3.connect(self.path)
        self.base.execute("PRAGMA journal_mode=WAL")
        self.base.execute(f"PRAGMA synchronous={synchronous}")
        self.base.execute("CREATE TABLE counts (image TEXT PRIMARY KEY, seconds REAL, parts BLOB, lengths TEXT)")
        self.base.commit()

    def add(self, image: str, counts: PixelCounts) -> None:
        lengths = ",".join(str(len(part)) for part in counts)
        blob = np.concatenate([np.asarray(part, np.int64) for part in counts]).tobytes()
        self.base.execute("INSERT INTO counts VALUES (?, ?, ?, ?)", (image, 1.0, blob, lengths))
        self.base.commit()

    def close(self) -> None:
        self.base.close()

    def read(self) -> dict[str, PixelCounts]:
        base = sqlite3.connect(self.path)
        found = {}
        for image, blob, lengths in base.execute("SELECT image, parts, lengths FROM counts"):
            ends = np.cumsum([int(n) for n in lengths.split(",")])[:-1]
            found[image] = PixelCounts(*np.split(np.frombuffer(blob, np.int64), ends))
        base.close()
        return found


WAYS: dict[str, Callable[[Path], Any]] = {
    "lines": Lines,
    "sqlite full": lambda folder: Rows(folder, "FULL"),
    "sqlite normal": lambda folder: Rows(folder, "NORMAL"),
}


def images(classes: int, number: int) -> list[PixelCounts]:
    """Return typical counts: a dozen classes in the label, a few more in the prediction."""
    noise = np.random.default_rng(0)
    found = []
    for _ in range(number):
        present = noise.choice(classes, 15, replace=False)
        label, predicted = present[noise.integers(0, 12, (64, 64))], present[noise.integers(0, 15, (64, 64))]
        found.append(count_pixels(predicted.astype(np.uint16), label.astype(np.uint16), classes))
    return found


def measure(classes: int, number: int, repeats: int, root: Path) -> dict[str, Any]:
    """Return for each form the median seconds to store and to read an image, and the bytes."""
    counts = images(classes, number)
    notes: dict[str, list[float]] = {way: [] for way in WAYS}
    reads: dict[str, list[float]] = {way: [] for way in WAYS}
    size = {}
    for turn in range(repeats):
        for way, make in WAYS.items():
            folder = root / f"{way.replace(' ', '-')}-{classes}-{turn}"
            ledger = make(folder)
            for n, each in enumerate(counts):
                start = time.perf_counter()
                ledger.add(f"image_{n:06d}", each)
                notes[way].append(time.perf_counter() - start)
            ledger.close()
            start = time.perf_counter()
            found = ledger.read()
            reads[way].append((time.perf_counter() - start) / number)
            assert all(np.array_equal(a, b) for a, b in zip(found["image_000001"], counts[1], strict=True))
            size[way] = sum(file.stat().st_size for file in folder.iterdir()) / number
            shutil.rmtree(folder)
    return {"classes": classes, "images": number, "repeats": repeats} | {
        way: {
            "note_s": round(statistics.median(notes[way]), 6),
            "read_s": round(statistics.median(reads[way]), 7),
            "bytes": round(size[way]),
            "ratio_to_lines": {
                "note": round(statistics.median(notes[way]) / statistics.median(notes["lines"]), 2),
                "read": round(statistics.median(reads[way]) / statistics.median(reads["lines"]), 2),
                "bytes": round(size[way] / size["lines"], 2),
            },
        }
        for way in WAYS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; by default the temporary one")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = [measure(classes, arguments.images, arguments.repeats, Path(folder)) for classes in (150, 847)]
    machine = {"processor": env.device_name("cpu")["name"], "cores": os.cpu_count(), "sqlite": sqlite3.sqlite_version}
    write_json(arguments.out / "ledger.json", {"machine": machine, "rows": rows})
    for row in rows:
        print(row["classes"], {way: row[way]["ratio_to_lines"] for way in WAYS})


if __name__ == "__main__":
    main()
