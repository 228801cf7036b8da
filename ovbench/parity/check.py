"""Checking a case: run, then compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.parity.adapters import numpy_value, run
from ovbench.parity.case import read_case
from ovbench.parity.compare import FAIL, Row, compare, named_steps


@dataclass(frozen=True)
class Report:
    """The rows of one case, its label map last."""

    case: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return all(row.verdict != FAIL for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        return {"case": self.case, "passed": self.passed, "stages": [row.as_dict() for row in self.rows]}


def check_case(folder: str | Path) -> Report:
    """Run the method of a case on its inputs and compare every stage. InputError for a case that cannot be read."""
    case = read_case(folder)
    values = run(case)
    expected = case.expected()  # only now: the run must not depend on it
    steps = [n for stage in case.stages for n in named_steps(stage)]
    rows = []
    for stage in (*case.stages, case.labels):
        name = stage.name.rsplit("_w", 1)[0] if stage.window() is not None and stage.name not in values else stage.name
        window = stage.window() if stage.window() is not None else _observed_window(case.raw)
        ours: np.ndarray | None = numpy_value(values[name](window)) if name in values else None
        rows.append(compare(stage, ours, expected[stage.name], steps))
    return Report(f"{case.method}/{case.name}", tuple(rows))


def _observed_window(raw: dict[str, Any]) -> int | None:
    window = (raw.get("observed") or {}).get("window")
    return window if isinstance(window, int) else None
