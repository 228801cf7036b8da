"""Checking a case: run, then compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.parity.adapters import numpy_value, run
from ovbench.parity.adapters.common import Values
from ovbench.parity.case import Case, Stage, read_case
from ovbench.parity.compare_stages import FAIL, Row, compare, named_steps


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
        rows.extend(_variants(case, stage, name, window, values, expected, steps))
    return Report(f"{case.method}/{case.name}", tuple(rows))


def _variants(
    case: Case, stage: Stage, name: str, window: int | None, values: Values, expected: dict[str, np.ndarray],
    steps: list[int],
) -> Iterator[Row]:  # fmt: skip
    """Further runs of an adapter, "STAGE@VARIANT": compared with the array "STAGE_VARIANT" where the case has one, and
    with the tolerance "atol_VARIANT" where the stage has one."""
    for key in values:
        of, _, variant = key.partition("@")
        if of != name or not variant:
            continue
        target = f"{stage.name}_{variant}"
        atol = case.raw["stages"].get(stage.name, {}).get(f"atol_{variant}", stage.atol)
        other = replace(stage, name=f"{stage.name} ({variant.replace('_', ' ')})", atol=atol)
        ours = numpy_value(values[key](window))
        yield compare(other, ours, expected.get(target, expected[stage.name]), steps)


def _observed_window(raw: dict[str, Any]) -> int | None:
    window = (raw.get("observed") or {}).get("window")
    return window if isinstance(window, int) else None
