"""Run a recorded case and compare every stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.parity.adapters import numpy_value, run
from ovbench.parity.adapters.common import Values
from ovbench.parity.case import Case, Stage, read_case
from ovbench.parity.compare_stages import FAIL, StageResult, compare, named_steps

ROWS = "rows"  # an expected array of this name has the numbers of the rows whose values other stages hold


@dataclass(frozen=True)
class CaseReport:
    """The comparisons of one case, the label map last."""

    case: str
    rows: tuple[StageResult, ...]

    @property
    def passed(self) -> bool:
        """Return whether no stage failed."""
        return all(row.verdict != FAIL for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {"case": self.case, "passed": self.passed, "stages": [row.as_dict() for row in self.rows]}


def check_case(folder: str | Path) -> CaseReport:
    """Run the method of a case on its inputs and compare every stage.

    Raises:
        InputError: If the case cannot be read.
    """
    case = read_case(folder)
    values = run(case)
    expected = case.expected()  # read after the run, which must not depend on it
    steps = [n for stage in case.stages for n in named_steps(stage)]
    rows = []
    for stage in (*case.stages, case.labels):
        name = stage.name.rsplit("_w", 1)[0] if stage.window() is not None and stage.name not in values else stage.name
        if stage.name == ROWS:
            continue
        window = stage.window() if stage.window() is not None else case.file.observed.window
        ours: np.ndarray | None = numpy_value(values[name](window)) if name in values else None
        if ours is not None and stage.meaning.startswith("sampled rows") and ROWS in expected:
            ours = ours[expected[ROWS]]
        rows.append(compare(stage, ours, expected[stage.name], steps))
        rows.extend(_variants(case, stage, name, window, values, expected, steps))
    return CaseReport(f"{case.method}/{case.name}", tuple(rows))


def _variants(
    case: Case, stage: Stage, name: str, window: int | None, values: Values, expected: dict[str, np.ndarray],
    steps: list[int],
) -> Iterator[StageResult]:  # fmt: skip
    """Compare values "STAGE@VARIANT" with the array of the case that is like the stage in this variant.

    It is named under "variants" of the case, with its own tolerance; or it is "STAGE_VARIANT" with "atol_VARIANT".
    """
    for key in values:
        of, _, variant = key.partition("@")
        if of != name or not variant:
            continue
        found = _target(case, stage, variant)
        if found is None:
            continue
        target, atol, rtol = found
        renamed = replace(stage, name=f"{stage.name} ({variant.replace('_', ' ')})", atol=atol, rtol=rtol)
        ours = numpy_value(values[key](window))
        yield compare(renamed, ours, expected.get(target, expected[stage.name]), steps)


def _target(case: Case, stage: Stage, variant: str) -> tuple[str, float, float] | None:
    """Return the name of the array that a stage has in a variant, with its tolerances; None if it was not recorded."""
    listed = case.file.variants.get(variant)
    if listed is None:
        recorded = case.file.stages.get(stage.name)
        atol = recorded.model_extra.get(f"atol_{variant}", stage.atol) if recorded else stage.atol
        return f"{stage.name}_{variant}", atol, stage.rtol
    if stage.name == case.labels.name:
        return listed.labels, stage.atol, stage.rtol
    for name, array in listed.arrays.items():
        if array.like == stage.name:
            return name, array.atol, array.rtol
    return None
