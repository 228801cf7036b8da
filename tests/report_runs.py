"""Runs that were never made: records and ledgers with counts of the test's choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ovbench.config.load import resolve
from ovbench.evaluation.build_record import build_record
from ovbench.evaluation.ledger import Entry, LedgerWriter
from ovbench.metrics.confusion import PixelCounts
from ovbench.utils.files import write_json


def random_counts(generator: np.random.Generator, images: int, classes: int, outside: bool = True) -> list[PixelCounts]:
    """Images of a few classes each, some of whose pixels are taken for others, or lie outside of the classes."""
    made = []
    for _ in range(images):
        cells = {}
        for label in generator.choice(classes + outside, size=min(3, classes), replace=False):
            for guess in {int(label), *generator.integers(0, classes, size=2).tolist()}:
                cells[int(label), guess] = int(generator.integers(1, 500))
        pairs = sorted(cells)
        columns = ([a for a, _ in pairs], [b for _, b in pairs], [cells[pair] for pair in pairs])
        made.append(PixelCounts(*(np.array(column, dtype=np.int64) for column in columns)))
    return made


def write_run(
    folder: Path, counts: list[PixelCounts], classes: list[str], *, ids: list[str] | None = None,
    split_images: int | None = None, name: str = "run", method: str = "clip", cell: dict | None = None,
) -> Path:  # fmt: skip
    """A record ``name``.json with its ledger in ``folder``; its settings are those of a method on mini."""
    ids = ids or [f"image_{n:04d}" for n in range(len(counts))]
    resolved = resolve(method, "mini")
    header = {
        "ovbench": "0.1.0",
        "cell": cell or resolved.as_dict(),
        "settings_sha256": resolved.digest(),
        "dataset": {
            "title": "drawn", "split": "val", "split_images": split_images or len(ids), "layout": "generated",
            "label_rule": "correct", "subset_sha256": None, "classes": classes, "background": None,
        },
        "vocabulary": [[name] for name in classes],
        "weights": {"clip": {"name": "mini", "sha256": "0" * 64}},
        "execution": {"precision": "fp32", "compile": False},
    }  # fmt: skip
    entries = {i: Entry(i, one, None, {"label": 0.5}) for i, one in zip(ids, counts, strict=True)}
    with LedgerWriter(folder / name, "0", header) as ledger:
        for entry in entries.values():
            ledger.add(entry)
    made_with = {"versions": {"ovbench": "0.1.0"}, "git": None, "device": {"type": "cpu", "precision": "fp32"}}
    record = build_record(header, ids, entries, made_with, {"started": "2026-01-01T00:00:00+00:00"}, name)
    write_json(folder / f"{name}.json", record)
    return folder / f"{name}.json"
