"""Measure how reading, tables, plots and reports grow with images and classes, on drawn counts.

python scripts/bench/results_scale.py

Writes results/benchmarks/results_scale.json: CPU seconds and peak memory of a process per step, without what an empty
process takes. A step that is given twice the images must not take much more than twice the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.config.load import resolve
from ovbench.evaluation.build_record import build_record
from ovbench.evaluation.ledger import Entry, LedgerWriter, read_ledger
from ovbench.metrics.confusion import PixelCounts
from ovbench.utils.files import write_json

ROOT = Path(__file__).parents[2]
SIZES = ((1250, 847), (5000, 847), (20_000, 150), (100_000, 150), (1000, 10_000))
CLASSES_PER_IMAGE, GUESSES = 8, 3


def draw_counts(images: int, classes: int, seed: int) -> Iterator[PixelCounts]:
    """Draw images of a few classes each; some pixels of a class are taken for others."""
    rng = np.random.default_rng(seed)
    for _ in range(images):
        labels = rng.choice(classes, min(CLASSES_PER_IMAGE, classes), replace=False)
        guesses = np.concatenate([labels[:, None], rng.integers(0, classes, (len(labels), GUESSES))], 1)
        pairs = np.unique(np.stack([labels.repeat(GUESSES + 1), guesses.ravel()]), axis=1)
        yield PixelCounts(pairs[0], pairs[1], rng.integers(1, 5000, pairs.shape[1]))


def header_of(classes: int) -> dict[str, Any]:
    """Return the header of a ledger with this number of classes."""
    cell = resolve("clip", "mini")
    return {
        "cell": cell.as_dict(),
        "settings_sha256": cell.digest(),
        "dataset": {
            "title": "drawn", "split": "val", "split_images": 0, "layout": "generated", "label_rule": "correct",
            "subset_sha256": None, "classes": [f"class {number}" for number in range(classes)], "background": None,
        },
        "vocabulary": [],
        "weights": {"clip": {"name": "mini", "sha256": "0" * 64}},
    }  # fmt: skip


def write_ledger(folder: Path, images: int, classes: int, seed: int) -> None:
    """Write a ledger; nothing is flushed, which would take most of the time."""
    header, flush = header_of(classes), os.fsync
    os.fsync = lambda descriptor: None
    try:
        with LedgerWriter(folder, "0", header | {"dataset": header["dataset"] | {"split_images": images}}) as ledger:
            for number, counts in enumerate(draw_counts(images, classes, seed)):
                ledger.add(Entry(f"image{number:06}", counts, None, {"label": 0.5}, number))
    finally:
        os.fsync = flush


def write_record(folder: Path, images: int, classes: int) -> None:
    """Read a ledger and write its record beside it."""
    header = header_of(classes)
    header["dataset"]["split_images"] = images
    entries = read_ledger(folder, header)
    made = {"versions": {"ovbench": "0"}, "git": None, "device": {"type": "cpu", "name": "none"}}
    record = build_record(header, [*entries], entries, made, {"started": "2026-01-01T00:00:00+00:00"}, folder.name)
    write_json(folder.with_suffix(".json"), record)


def cost(*command: str) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory in MiB of a child process."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)}: {error.decode()}")
    scale = 1024 if sys.platform != "darwin" else 1024**2
    return used.ru_utime + used.ru_stime, used.ru_maxrss / scale


def steps(folder: Path, images: int, classes: int) -> dict[str, tuple[float, float]]:
    """Measure every step on two runs of this size."""
    for seed, name in enumerate(("first", "second")):
        write_ledger(folder / name, images, classes, seed)
    this, ovbench = (sys.executable, __file__), (sys.executable, "-m", "ovbench")
    found = {}
    for name in ("first", "second"):
        found["record"] = cost(*this, "--record", str(folder / name), str(images), str(classes))
    records = [str(folder / f"{name}.json") for name in ("first", "second")]
    found["table"] = cost(*ovbench, "table", "--runs", str(folder))
    found["compare"] = cost(*ovbench, "compare", *records)
    found["plot"] = cost(*ovbench, "plot", "classes", *records, "--out", str(folder / "plot.png"))
    found["report"] = cost(*ovbench, "report", *records, "--images", "0", "--out", str(folder / "report.html"))
    return found


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", nargs=3, metavar=("FOLDER", "IMAGES", "CLASSES"), help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=2, action="append", metavar=("IMAGES", "CLASSES"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "results_scale.json")
    arguments = parser.parse_args()
    if arguments.record:
        write_record(Path(arguments.record[0]), *map(int, arguments.record[1:]))
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    imports = "import ovbench.results.plots, ovbench.results.compare, ovbench.results.report.page, matplotlib.figure"
    base = cost(sys.executable, "-c", imports)
    rows = []
    for images, classes in arguments.sizes or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            measured = steps(Path(folder), images, classes)
            size = (Path(folder) / "report.html").stat().st_size
        rows.append({
            "images": images, "classes": classes, "report_mb": round(size / 1e6, 1),
            "cpu_seconds": {name: round(seconds, 2) for name, (seconds, _) in measured.items()},
            "peak_mib": {name: round(mib) for name, (_, mib) in measured.items()},
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    imported = {"cpu_seconds": round(base[0], 2), "peak_mib": round(base[1])}
    write_json(arguments.out, {"imports_alone": imported, "sizes": rows})


if __name__ == "__main__":
    main()
