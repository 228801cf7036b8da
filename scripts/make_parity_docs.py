"""Write the table of docs/parity.md from the cases under tests/data: python scripts/make_parity_docs.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "parity.md"
MARKS = "<!-- cases: written by scripts/make_parity_docs.py -->\n", "<!-- end of cases -->"
HEAD = "| case | kind | expected values come from | compared |\n|---|---|---|---|\n"


def table() -> str:
    """Return one row per case: its kind, the origin of its expected values, and the compared quantities."""
    data = ROOT / "tests" / "data"
    rows = []
    for path in sorted(data.glob("*/*/*/case.json")):
        raw = json.loads(path.read_text(encoding="utf-8"))
        rows.append(row(path.parent.relative_to(data), raw, [*raw["stages"], raw["labels"]["array"]]))
    for path in sorted([*data.glob("parity/*_window/*.npz"), *data.glob("parity/steps/*.npz")]):
        with np.load(path) as archive:
            raw = json.loads(str(archive["origin"]))
            rows.append(row(path.relative_to(data), raw, [name for name in archive.files if name in raw["stages"]]))
    return HEAD + "".join(sorted(rows))


def row(path: Path, raw: dict[str, Any], stages: list[str]) -> str:
    if official := raw["official"]:
        kind, source = "official", f"`{official['repo']}` at `{official['commit'][:10]}`"
    elif raw.get("kind") == "regression":
        kind, source = "regression", "ovbench itself"
    else:
        kind, source = "equations", raw["reference"].replace("numpy, from", "a NumPy program of the paper's")
    return f"| `{path.as_posix()}` | {kind} | {source} | {', '.join(f'`{name}`' for name in dict.fromkeys(stages))} |\n"


def page(text: str) -> str:
    """Return the page with a new table."""
    start, end = map(re.escape, MARKS)
    return re.sub(f"(?<={start}).*(?={end})", lambda _: table(), text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
