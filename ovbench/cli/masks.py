"""``ovbench masks``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from ovbench.cli import options, say


@click.group(name="masks", short_help="Build region maps.")
def masks() -> None:
    """Build region maps. All evaluations with the same source and settings use them from the cache."""


@masks.command("build")
@click.option(
    "--dataset", "-d", required=True, metavar="NAME|CARD.toml", shell_complete=options.complete_datasets,
    help="Benchmark, or your own card.",
)  # fmt: skip
@click.option("--regions", "source", required=True, metavar="SOURCE", help="Region source, for example sam2-32.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="A setting of the source, for example --set points=16 or --set weights=FILE. Repeatable.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N images.")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N",
    help="Number of processes. [default: one per device; one per core for sources without weights on the CPU]",
)  # fmt: skip
@click.option(
    "--device", "devices", multiple=True, default=["auto"], show_default=True,
    help="auto, cpu, cuda or cuda:N. Repeat it to use several GPUs.",
)  # fmt: skip
@options.data_root
@options.shard("the cache must be one folder for all")
@options.as_json
def build(
    dataset: str,
    source: str,
    settings: tuple[str, ...],
    limit: int | None,
    workers: int | None,
    devices: tuple[str, ...],
    data_root: Path | None,
    shard: str | None,
    as_json: bool,
) -> int:
    """Build the region maps of a benchmark that are not in the cache.

    Repeat the command to resume an interrupted build. Damaged maps are built again.

    \b
    ovbench masks build --dataset mini --regions felzenszwalb
    ovbench masks build --dataset ade150 --regions sam2-32 --device cuda:0 --device cuda:1
    """
    from ovbench.config.load import override_pairs
    from ovbench.data.card import load_card
    from ovbench.evaluation.distributed import parse_shard
    from ovbench.utils.registry import REGIONS

    card = load_card(dataset)  # a mistake is answered before torch is imported
    REGIONS.load(source)
    share = parse_shard(options.resolve_shard(shard))
    from tqdm import tqdm

    from ovbench.data.dataset import open_dataset
    from ovbench.regions.build_maps import build_maps, region_settings, tasks_of
    from ovbench.regions.provider import open_source
    from ovbench.utils.provenance import choose_device

    table = region_settings(source, override_pairs(settings, "--set"))
    chosen = [choose_device(name) for name in devices]
    benchmark = open_dataset(card, data_root)
    if workers is None:
        on_cpu = all(device == "cpu" for device in chosen)
        workers = (os.cpu_count() or 1) if on_cpu and open_source(table)[1].concurrent else len(chosen)
    tasks = tasks_of(benchmark, limit)
    tasks = share.take(tasks) if share else tasks
    total = len(tasks)
    say(f"planned: {source} for {total} images of {dataset}, {workers} processes, {', '.join(chosen)}", err=True)
    open_source(table)[1].fetch()
    with tqdm(total=total, desc=f"{source} on {dataset}", unit="image", disable=None) as bar:
        built = build_maps(tasks, table, devices=chosen, workers=workers, advance=bar.update)
    for image_id, reason in built.failed.items():
        say(f"failed: {image_id}: {reason}", err=True)
    if as_json:
        found = {"made": built.made, "found": built.found, "failed": built.failed, "folder": str(built.folder)}
        click.echo(json.dumps({"dataset": dataset, "regions": table, **found}, indent=1))
    else:
        say(f"{built.made} maps built, {built.found} found in the cache: {built.folder}")
    return 4 if built.failed else 0
