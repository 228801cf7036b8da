"""Table of the stages of a case."""

from __future__ import annotations

from rich.table import Table

from ovbench.parity.check import CaseReport
from ovbench.parity.compare_stages import FAIL, PASS, StageResult


def stage_table(report: CaseReport) -> Table:
    """Return a table with error, tolerance and verdict of each stage; label maps show the fraction of equal pixels."""
    verdict = PASS if report.passed else FAIL
    table = Table(title=f"{report.case}: {verdict}", title_justify="left")
    table.add_column("stage")
    table.add_column("error", justify="right")
    table.add_column("tolerance", justify="right")
    table.add_column("verdict")
    for row in report.rows:
        table.add_row(row.stage, _error(row), _tolerance(row), f"{row.verdict} {row.remark}".strip())
    return table


def _error(row: StageResult) -> str:
    if row.agreement is not None:
        return f"{100 * row.agreement:.3f} % equal"
    return "" if row.error is None else f"{row.error:.1e}"


def _tolerance(row: StageResult) -> str:
    if row.min_agreement is not None:
        return f">= {100 * row.min_agreement:g} %"
    return "" if row.atol is None else f"{row.atol:g} + {row.rtol:g} |x|"
