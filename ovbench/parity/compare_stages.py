"""Compare one stage: the largest error against the tolerance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ovbench.parity.case import Stage

PASS, FAIL, NOT_COMPUTED = "pass", "fail", "not computed"


@dataclass(frozen=True)
class StageResult:
    """The verdict on a stage.

    Attributes:
        stage: Name of the stage.
        verdict: PASS, FAIL or NOT_COMPUTED.
        error: Largest absolute error.
        excess: Largest ratio of an error to its tolerance.
        atol: Absolute tolerance.
        rtol: Relative tolerance.
        agreement: Fraction of equal values, for stages with ``min_agreement``.
        min_agreement: Smallest fraction that passes.
        remark: Why values cannot be compared.
    """

    stage: str
    verdict: str
    error: float | None = None
    excess: float | None = None
    atol: float | None = None
    rtol: float | None = None
    agreement: float | None = None
    min_agreement: float | None = None
    remark: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {k: v for k, v in asdict(self).items() if v not in (None, "")}


def compare(stage: Stage, ours: np.ndarray | None, expected: np.ndarray, steps: Sequence[int] = ()) -> StageResult:
    """Compare a stage with its expected values.

    Args:
        stage: Name and tolerance of the stage.
        ours: The complete quantity, None if the method did not note it.
        expected: The recorded values; they may be every n-th row or pixel, or the first heads.
        steps: The n of other stages of the case, for descriptions such as "the same rows".
    """
    if ours is None:
        return StageResult(stage.name, NOT_COMPUTED)
    ours = np.asarray(ours)
    if ours.ndim == expected.ndim > 0 and _holds_first_heads(stage):
        ours = ours[: len(expected)]
    ours = _sample(ours, expected.shape, [*named_steps(stage), *steps])
    if ours.shape != expected.shape:
        return StageResult(stage.name, FAIL, remark=f"shape {ours.shape}, expected {expected.shape}")
    if expected.dtype.kind in "US":
        agreement = float((ours == expected).mean())
        return StageResult(stage.name, PASS if agreement == 1 else FAIL, agreement=agreement, min_agreement=1.0)
    if stage.min_agreement is not None:
        agreement = float((ours == expected).mean())
        verdict = PASS if agreement >= stage.min_agreement else FAIL
        return StageResult(stage.name, verdict, agreement=agreement, min_agreement=stage.min_agreement)
    wide = expected.astype(np.float64)
    error = np.abs(ours.astype(np.float64) - wide)
    error[np.isnan(ours) & np.isnan(wide)] = 0.0  # a recorded NaN means "not defined here"
    tolerance = stage.atol + stage.rtol * np.abs(wide)
    within = bool((error <= np.nan_to_num(tolerance)).all())  # False for NaN on one side
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(error == 0, 0.0, error / tolerance)
    return StageResult(
        stage.name,
        PASS if within else FAIL,
        error=float(error.max(initial=0.0)),
        excess=float(excess.max(initial=0.0)),
        atol=stage.atol,
        rtol=stage.rtol,
    )


def named_steps(stage: Stage) -> list[int]:
    """Return the n of "[::n]" or "every n-th" in the description of a stage."""
    return [int(n) for found in re.findall(r"::(\d+)|every (\d+)", stage.meaning) for n in found if n]


def _holds_first_heads(stage: Stage) -> bool:
    return re.search(r"\bfirst (\d+ |\w+ )?heads?\b", stage.meaning) is not None


def _sample(ours: np.ndarray, shape: tuple[int, ...], steps: Sequence[int]) -> np.ndarray:
    """Take every n-th element along each axis to get ``shape``; n is the first of ``steps`` that fits."""
    if ours.ndim != len(shape):
        return ours
    chosen = []
    for have, want in zip(ours.shape, shape, strict=True):
        possible = [n for n in range(1, have + 1) if -(-have // n) == want]
        fitting = [n for n in steps if n in possible]
        chosen.append(1 if 1 in possible else fitting[0] if fitting else possible[0] if len(possible) == 1 else 1)
    return ours[tuple(slice(None, None, step) for step in chosen)]
