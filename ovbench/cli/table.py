"""``ovbench table``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ovbench.cli import options, say

if TYPE_CHECKING:
    from ovbench.results.layouts import TableLayout
    from ovbench.results.tables import ComparisonTable

FORMAT_NAMES = ("rich", "markdown", "latex", "csv", "html", "json", "eval-results")


@click.command()
@click.argument("records", nargs=-1, type=options.RECORD, metavar="[RECORD|FOLDER]...")
@click.option(
    "--layout", "-l", metavar="NAME|FILE.toml", shell_complete=options.complete_layouts,
    help="A table of a paper, such as corrclip-table1. [default: one row per measured method]",
)  # fmt: skip
@click.option(
    "--runs", type=options.Folder(), default=Path(options.RUNS), show_default=True,
    help="Folder or URL of the records, if none is named.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice(FORMAT_NAMES),
    help="Output format. [default: rich on a terminal, markdown in a pipe or file]",
)  # fmt: skip
@click.option(
    "--suite", metavar="NAME|FILE.toml", shell_complete=options.complete_suites,
    help="The rows of a suite with the drop from its baseline, and mean and spread of each group of rows.",
)  # fmt: skip
@options.datasets("Show this benchmark instead of those of the layout. Repeatable.")
@options.metric("Show this metric instead of mIoU or that of the layout, such as fwIoU; see docs/metrics.md.")
@options.similarity
@click.option("--intervals", is_flag=True, help="Show the 95 % interval of each measured value.")
@click.option("--list", "listing", is_flag=True, help="List the layouts that come with ovbench.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Show records with this setting, for example regions=felzenszwalb. Repeatable.",
)  # fmt: skip
@click.option(
    "--hub-dataset", "hub", multiple=True, metavar="NAME=OWNER/DATASET[:TASK]",
    help="For the format eval-results: the Hugging Face dataset of a benchmark, with the id of its task. Repeatable.",
)  # fmt: skip
@options.protocol
def table(
    records: tuple[Path, ...], layout: str | None, runs: Path, form: str | None, suite: str | None,
    datasets: tuple[str, ...], metric: str | None, similarity: str | None, intervals: bool, listing: bool,
    settings: tuple[str, ...], hub: tuple[str, ...], protocol: str,
) -> None:  # fmt: skip
    """Print a comparison table: published values beside the values of records.

    Shows the newest complete record of each cell.

    \b
    ovbench table                                           all records under runs/
    ovbench table runs/maskclip-mini-1a2b3c4d.json runs-of-a-colleague
    ovbench table --layout corrclip-table1 --format markdown
    ovbench table --layout cass-table1 --protocol common --format csv
    ovbench table --layout reme-table2 -d mini
    ovbench table --suite class-names --format json
    ovbench table -d mini --format eval-results --hub-dataset mini=me/mini > .eval_results/ovbench.yaml
    """
    from ovbench.results.layouts import layout_names, load_layout

    if listing:
        for name in layout_names():
            say(f"{name:26} {load_layout(name).title}")
        return

    from ovbench.config.load import override_pairs
    from ovbench.metrics.named import METRICS, parse_metric
    from ovbench.results.metric_values import check_similarity, similarity_notes, with_metric
    from ovbench.results.record_files import apart_by_data, records_at
    from ovbench.results.tables import record_table
    from ovbench.results.writers import FORMATS
    from ovbench.utils.errors import InputError

    places = records or (runs,)
    if layout is not None and places == (Path(options.RUNS),) and not runs.is_dir():
        places = ()  # a layout can be printed without records
    if suite is not None:
        if layout is not None:
            raise click.UsageError("--suite and --layout are two tables; give one.")
        if metric or similarity or intervals:
            raise click.UsageError("a suite has drops of mIoU only; leave out --metric, --similarity and --intervals.")
        own = override_pairs(settings, "--set")
        click.echo(_suite_drops(suite, records_at(*places), datasets, form, own), nl=False)
        return
    chosen = parse_metric(metric) if metric else None
    check_similarity(chosen or METRICS["mIoU"], similarity)
    measured = apart_by_data(records_at(*places))
    measured_on = {f.record["cell"]["dataset"] for f in measured}
    _refuse_unknown(datasets, measured_on.union(load_layout(layout).columns if layout else ()))
    if layout is None:
        measured = [f for f in measured if not datasets or f.record["cell"]["dataset"] in datasets]
        if not measured:
            where = ", ".join(map(str, places))
            raise InputError("no record in the folder", where=where, fix="run ovbench eval, or give a --layout")
        measured = with_metric(measured, chosen, similarity) if chosen else measured
        made = record_table(measured, chosen or METRICS["mIoU"])
    else:
        measured = with_metric(measured, chosen, similarity) if chosen else measured
        own = override_pairs(settings, "--set")
        made = _layout_table(load_layout(layout, datasets, chosen), measured, protocol, own)
    made = replace(made, notes=(*made.notes, *similarity_notes(measured)))
    if form == "eval-results":
        click.echo(_eval_results(measured, layout, hub), nl=False)
        return
    form = form or ("rich" if click.get_text_stream("stdout").isatty() else "markdown")
    click.echo(FORMATS[form](made, intervals), nl=False)


def _layout_table(layout: TableLayout, records: list, protocol: str, settings: dict[str, str]) -> ComparisonTable:
    """Return the table of a layout, with measured costs, and measured rows if its columns are means over benchmarks."""
    from ovbench.results.combined_columns import combined_rows
    from ovbench.results.cost_rows import cost_rows, is_cost_column
    from ovbench.results.tables import layout_table

    combined = combined_rows(layout, records)
    more = [*cost_rows(layout, records), *combined.rows]
    costs = [column for column in layout.columns if is_cost_column(column)]
    made = layout_table(layout, records, protocol, settings, more, [*costs, *layout.benchmarks, layout.overall])
    return replace(made, notes=(*made.notes, *combined.notes))


def _suite_drops(
    suite: str, records: list, datasets: tuple[str, ...], form: str | None, settings: dict[str, str]
) -> str:
    """Return the table of the drops of a suite, for the terminal, as Markdown or as JSON."""
    from ovbench.results.console import as_text
    from ovbench.results.drop_table import drop_page, drop_table, suite_drops
    from ovbench.utils.errors import UsageError

    form = form or ("rich" if click.get_text_stream("stdout").isatty() else "markdown")
    if form not in ("rich", "markdown", "json"):
        raise UsageError(f"a suite has no table in {form}", where="--format", fix="use rich, markdown or json")
    rows = suite_drops(suite, records, datasets, settings)
    if form == "json":
        return json.dumps([row.as_dict() for row in rows], indent=1) + "\n"
    return as_text(drop_table(rows)) if form == "rich" else drop_page(rows)


def _eval_results(records: list, layout: str | None, hub: tuple[str, ...]) -> str:
    """Return the records as the YAML of a model repository."""
    from ovbench.config.load import override_pairs
    from ovbench.results.hub_results import eval_results
    from ovbench.utils.errors import UsageError

    if layout is not None:
        raise UsageError("a layout has no evaluation results", fix="leave out --layout; -d selects benchmarks")
    return eval_results(records, override_pairs(hub, "--hub-dataset"))


def _refuse_unknown(datasets: tuple[str, ...], seen: set[str]) -> None:
    """Raise UsageError for a dataset that neither ovbench, a record nor the layout has."""
    from ovbench.data.shipped_cards import known_cards
    from ovbench.utils.errors import unknown

    for name in datasets:
        if name not in {*known_cards(), *seen}:
            raise unknown("dataset", name, {*known_cards(), *seen})
