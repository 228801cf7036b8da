"""``ovbench gate``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ovbench.cli import options, say


def _number(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Refuse NaN, which a click range accepts."""
    if math.isnan(value):
        raise click.BadParameter("nan is not a number", ctx, param)
    return value


def _refuse_options_of_a_check() -> None:
    """Refuse options that ``--update`` does not use; a baseline holds counts, so a check may use any metric of them."""
    context = click.get_current_context()
    for name in ("tolerance", "metric", "similarity", "fixed", "markdown", "junit", "as_json"):
        if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT):
            option = "json" if name == "as_json" else name
            raise click.UsageError(f"--{option} is for a check of the baseline; leave it out with --update.")


@click.command()
@click.option(
    "--baseline", type=options.RECORD, required=True, metavar="FILE|RECORD|ID",
    help="Baseline file; or a record or bundle of an earlier run.",
)  # fmt: skip
@click.option(
    "--update",
    is_flag=True,
    help="Write the baseline instead of checking it; all cells of an existing one are measured again.",
)
@options.methods("With --update: a method of a new baseline; otherwise check only this method. Repeatable.")
@options.datasets("With --update: a benchmark of a new baseline. Repeatable.")
@click.option("--limit", type=click.IntRange(min=2), metavar="N", help="With --update: only the first N images.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0, max=100), callback=_number, default=0.2, show_default=True,
    help="Percentage points of the metric that may be lost.",
)  # fmt: skip
@options.metric("Judge by this metric instead of mIoU.")
@options.similarity
@click.option("--fixed", is_flag=True, help="Judge by the tolerance only, without the paired interval.")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Write the table for a pull request.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML.")
@options.settings
@options.device
@options.data_root
@options.as_json
def gate(
    baseline: Path, update: bool, methods: tuple[str, ...], datasets: tuple[str, ...], limit: int | None,
    tolerance: float, metric: str | None, similarity: str | None, fixed: bool, markdown: Path | None,
    junit: Path | None, settings: tuple[str, ...], device: str,
    data_root: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Evaluate every cell of a baseline again, on the same images, and compare.

    Exit code 5 if the score of a cell has fallen.

    \b
    ovbench gate --baseline baseline.json --update -m corrclip -m maskclip -d mini --limit 12
    ovbench gate --baseline baseline.json --markdown gate.md --junit gate.xml
    ovbench gate --baseline corrclip-mini-1a2b3c4d.ovb.zip
    """
    from ovbench.metrics.named import parse_metric
    from ovbench.results import gate_report
    from ovbench.results.console import show
    from ovbench.results.gate_runs import GateRequest, check_baseline, update_baseline
    from ovbench.utils.files import write_bytes

    chosen = parse_metric(metric or "mIoU")
    request = GateRequest(baseline, methods, datasets, limit, settings, device, data_root)
    if update:
        _refuse_options_of_a_check()
        update_baseline(request)
        say(f"baseline: {baseline}", err=True)
        return 0
    how: dict[str, Any] = {"metric": chosen, "similarity": similarity}
    verdicts = check_baseline(request, tolerance=tolerance / 100, paired=not fixed, **how)
    if as_json:
        click.echo(json.dumps([v._asdict() for v in verdicts], indent=1))
    else:
        show(gate_report.verdict_table(verdicts))
    for remark in gate_report.verdict_remarks(verdicts):
        say(remark, err=True)
    if markdown:
        write_bytes(markdown, gate_report.gate_markdown(verdicts).encode())
    if junit:
        gate_report.write_junit(junit, verdicts)
    return 0 if all(v.passed for v in verdicts) else 5
