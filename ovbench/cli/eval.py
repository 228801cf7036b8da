"""``ovbench eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ovbench.cli import options


@click.command(name="eval")
@options.methods("Method. Repeatable.")
@options.datasets("Benchmark, or a card of your own. Repeatable.", metavar="NAME|CARD.toml")
@click.option(
    "--suite", metavar="NAME|FILE.toml", shell_complete=options.complete_suites,
    help="The rows of a suite, such as a paper's table, instead of --method; on its own benchmarks or on --dataset.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N images.")
@click.option(
    "--subset", type=click.Path(path_type=Path), metavar="FILE", help="Only the images of a subset manifest."
)
@click.option("--classes", type=click.Path(path_type=Path), metavar="FILE", help="Other names for the classes.")
@options.protocol
@options.settings
@options.refine
@options.weights
@options.device
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp32", show_default=True,
    help="Of the backbones' blocks; all else stays in fp32. TF32 is never used.",
)  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="Send the backbones' blocks through torch.compile.")
@click.option(
    "--batch", type=click.IntRange(min=0), metavar="N",
    help="Windows of several images share batches of N, a multiple of 8 (0: every image goes by itself). "
    "[default: 32 on a GPU, 0 on the CPU]",
)  # fmt: skip
@options.data_root
@click.option(
    "--label-rule", type=click.Choice(["correct", "official"]),
    help="How void pixels of 16-bit labels count: correctly, or as in the published code. [default: official on pc459 "
    "and ade847, whose published figures follow it; correct with --protocol common and on every other benchmark]",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder for records."
)
@click.option("--fresh", is_flag=True, help="Start over instead of going on where an earlier run of the cell stopped.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first image that fails.")
@click.option("--shard", metavar="K/N", help="Only every N-th image from the K-th on; see `ovbench merge`.")
@click.option("--show", type=click.IntRange(min=0), default=0, metavar="N", help="Save overlays of the first N images.")
@click.option(
    "--page", type=click.Path(path_type=Path), metavar="FILE.md", help="Also write the rows of a suite as Markdown."
)
@options.as_json
def evaluate(**arguments: Any) -> int:
    """Evaluate methods on benchmarks and write one result record per cell.

    \b
    ovbench eval --method clip --method maskclip --method corrclip --dataset mini
    ovbench eval -m corrclip -d ade150 --data-root /data --limit 100
    ovbench eval --suite corrclip-table2 -d mini
    """
    from ovbench.evaluation.distributed import ProcessGroup
    from ovbench.evaluation.plan import Job, plan
    from ovbench.evaluation.runner import group_cells, run_cells
    from ovbench.methods.blame import MethodError
    from ovbench.results.console import class_table, show, summary_table

    as_json, page = arguments.pop("as_json"), arguments.pop("page")
    if page is not None and arguments["suite"] is None:
        raise click.UsageError("--page shows the rows of a suite; give --suite.")
    job, processes = Job(**arguments), ProcessGroup()
    cells = plan(job, processes)
    for planned in cells if processes.is_main else ():
        click.echo(f"planned: {planned.describe()}", err=True)
        if planned.note:
            click.echo(f"warning: {planned.cell.dataset}: {planned.note}", err=True)
    for line in dict.fromkeys(line for planned in cells if processes.is_main for line in planned.dataset.remarks):
        click.echo(line, err=True)
    records, broken = [], []
    for group in group_cells(cells):
        try:
            done = run_cells(group, job, processes)
        except MethodError as error:  # the method cannot even be built; the other cells run
            if job.fail_fast:
                raise
            broken.append(error)
            click.echo(f"failed: {', '.join(planned.describe() for planned in group)}: {error}", err=True)
            continue
        for record, path in done:
            records.append(record)
            if processes.is_main and not as_json and job.suite is None:
                show(class_table(record))
            for line in _remarks(record, path) if processes.is_main else ():
                click.echo(line, err=True)
    processes.close()
    if broken and not records:
        raise broken[0]
    if not processes.is_main:
        return 0
    labels = {planned.cell.digest(): planned.label for planned in cells if planned.label}
    if page is not None:
        _write_page(page, job.suite or "", records, labels)
    if as_json:
        click.echo(json.dumps(records[0] if len(records) == 1 else records, indent=1))
    else:
        show(summary_table(records, labels))
    return 4 if broken or any(record["failed"] for record in records) else 0


def _write_page(path: Path, suite: str, records: list[dict[str, Any]], labels: dict[str, str]) -> None:
    from ovbench.config.suites import suite_heading
    from ovbench.results.suite_table import suite_page
    from ovbench.utils.files import write_bytes

    title, source = suite_heading(suite)
    write_bytes(path, suite_page(Path(suite).stem, title, source, records, labels).encode())
    click.echo(f"page: {path}", err=True)


def _remarks(record: dict[str, Any], path: Path) -> list[str]:
    return [*(f"failed: {image}: {reason}" for image, reason in record["failed"].items()), f"record: {path}"]
