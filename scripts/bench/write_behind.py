"""Compare counting and writing in another thread with doing both between two images: seconds of wall time on mini.

python scripts/bench/write_behind.py    prints one JSON object; ratios of one run, the least of alternating repeats
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from unittest import mock

from ovbench.config.load import resolve
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.evaluation import evaluator
from ovbench.evaluation.ledger import LedgerWriter
from ovbench.inference.pipeline import build_pipeline

IMAGES, REPEATS = 12, 4


class Inline:
    """Call at once, in place of `WriteBehind`."""

    def __init__(self, most: int):
        self.call = lambda function, *arguments: function(*arguments)

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *raised: object) -> None:
        """Wait for nothing."""


def main() -> None:
    """Print the seconds and their ratio."""
    dataset, pipeline = open_dataset(load_card("mini")), build_pipeline(resolve("clip", "mini"))
    ids = frozenset(item.id for item in dataset.items[:IMAGES])
    best = dict.fromkeys(("inline", "behind"), float("inf"))
    for _ in range(REPEATS):
        for name, writer in (("inline", Inline), ("behind", evaluator.WriteBehind)):
            with (
                tempfile.TemporaryDirectory() as folder,
                mock.patch.object(evaluator, "WriteBehind", writer),
                LedgerWriter(Path(folder), "0", {}) as ledger,
            ):
                target = evaluator.Target(dataset, ledger, ids, lambda *image: None)
                start = time.perf_counter()
                evaluator.evaluate(pipeline, [target], range(IMAGES))
                best[name] = min(best[name], time.perf_counter() - start)
    print(json.dumps({**best, "ratio": best["behind"] / best["inline"], "images": IMAGES}, indent=1))


if __name__ == "__main__":
    main()
