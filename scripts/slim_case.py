"""Copy a parity case with only some of its stages, as for the small cases in tests/data/parity.

    python scripts/slim_case.py SOURCE TARGET STAGE [STAGE ...]

The label map, inputs and weights are always copied.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np


def slim(source: Path, target: Path, stages: list[str]) -> None:
    """Write the case ``source`` to the folder ``target`` with only these stages; KeyError for an unknown stage."""
    case = json.loads((source / "case.json").read_text())
    case["stages"] = {name: case["stages"][name] for name in stages}
    target.mkdir(parents=True)
    (target / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    for name in ("inputs.npz", "weights.safetensors"):
        if (source / name).is_file():
            shutil.copy(source / name, target / name)
    with np.load(source / "expected.npz") as expected:
        kept = {name: expected[name] for name in (*stages, case["labels"]["array"])}
    np.savez_compressed(target / "expected.npz", **kept)


if __name__ == "__main__":
    slim(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
