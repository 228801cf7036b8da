"""``ovbench reference``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from ovbench.cli import options, say
from ovbench.cli.built import print_build, print_verdict


@click.group(name="reference", short_help="Build and check ReME's reference sets.")
def reference() -> None:
    """Build and check reference sets of ReME: segments with phrases, from images and captions without labels."""


@reference.command("build")
@click.option(
    "--images", type=options.ImageFolder(), required=True, metavar="DIR|mini",
    help="Folder of images, or mini for its training images.",
)  # fmt: skip
@click.option(
    "--captions", metavar="SOURCE",
    help="Folder of NAME.txt, COCO .json, .jsonl or .csv (image, caption), transformers:MODEL or openai:MODEL.",
)  # fmt: skip
@click.option("--out", required=True, type=options.OutFolder(), metavar="REF", help="Folder of the set.")
@click.option("--like", metavar="NAME", help="Benchmark with the settings of reme. [default: coco-stuff]")
@click.option("--prompt", type=click.Path(path_type=Path), metavar="FILE", help="Another prompt for the captioner.")
@click.option("--base-url", default="", metavar="URL", help="OpenAI-compatible server.")
@click.option("--requests", type=click.IntRange(1), default=8, show_default=True, help="Parallel requests.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@click.option("--part-size", type=click.IntRange(1), default=256, show_default=True, help="Images per saved file.")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N",
    help="Processes for region maps. [default: one per core for sources without weights, otherwise 1]",
)  # fmt: skip
@click.option(
    "--shard", metavar="K/N|auto", help="Only every N-th file, starting with the K-th; see `reference merge`."
)
@options.settings
@options.weights
@options.device
@options.as_json
def build(
    images: Path | str,
    captions: str | None,
    out: Path,
    like: str | None,
    prompt: Path | None,
    base_url: str,
    requests: int,
    limit: int | None,
    part_size: int,
    workers: int | None,
    shard: str | None,
    settings: tuple[str, ...],
    weights: tuple[str, ...],
    device: str,
    as_json: bool,
) -> int:
    """Build a reference set. Repeat the command to resume an interrupted build.

    \b
    ovbench reference build --images mini --out ref
    ovbench reference build --images train2017 --captions captions.jsonl --out ref --set filter=adaptive
    torchrun --nproc-per-node 8 -m ovbench reference build --images DIR --captions transformers:MODEL --out ref
    """
    from ovbench.utils.errors import UsageError

    if captions is None and images != options.MINI:
        raise UsageError("no captions given", fix="give --captions, see: ovbench reference build --help")
    from ovbench.config.load import override_pairs
    from ovbench.evaluation.distributed import ProcessGroup, parse_shard
    from ovbench.regions.provider import open_source
    from ovbench.training.reference_set.builder import Sources, build_set
    from ovbench.training.reference_set.settings import resolve_plan
    from ovbench.utils.provenance import choose_device

    folder = images
    if images == options.MINI:
        from ovbench.training.mini_world import IMAGES, mini_world

        world = mini_world(limit or IMAGES)
        folder, captions, like = (
            world / "images" / "train",
            captions or str(world / "captions_train.json"),
            like or options.MINI,
        )
    processes = ProcessGroup()
    plan = resolve_plan(
        like or "coco-stuff", override_pairs(settings, "--set"), override_pairs(weights, "--weights")
    )  # fmt: skip
    chosen = choose_device(device, processes.local_rank)
    if processes.is_main:
        encoders = ", ".join(f"{k} {plan.cell.backbones[k]}" for k in ("clip", "dinov2"))
        say(
            f"planned: {folder} to {out}, {encoders}, pairing {plan.build.pairing}, parser {plan.build.parser}, "
            f"on {chosen}", err=True,
        )  # fmt: skip
    if workers is None:
        alone = processes.size == 1 and open_source(plan.cell.regions)[1].concurrent
        workers = (os.cpu_count() or 1) if alone else 1
    share = parse_shard(options.resolve_shard(shard))
    sources = Sources(folder, captions, out, prompt, base_url, requests, limit, part_size, workers, share)
    manifest = build_set(sources, plan, chosen, processes)
    processes.close()
    return 0 if manifest is None else _print_set(manifest, out, as_json)


def _print_set(manifest: dict, out: Path, as_json: bool) -> int:
    def show_counts() -> None:
        from ovbench.results.console import show
        from ovbench.training.reference_set.inspect import counts_table

        show(counts_table(manifest))
        say(f"{out}: the report is {out / 'report.html'}")

    return print_build(manifest, as_json, show_counts)


@reference.command("info")
@click.argument("folder", metavar="REF")
@options.as_json
def info(folder: str, as_json: bool) -> int:
    """Print the contents of a set and the settings of its build."""
    from ovbench.methods.reme.set_folder import find_set, read_manifest

    manifest = read_manifest(find_set(folder))
    if as_json:
        click.echo(json.dumps(manifest, indent=1))
        return 0
    from ovbench.results.console import show
    from ovbench.training.reference_set.inspect import counts_table, settings_table

    show(settings_table(manifest))
    show(counts_table(manifest))
    return 0


@reference.command("verify")
@click.argument("folder", metavar="REF")
@options.as_json
def verify(folder: str, as_json: bool) -> int:
    """Check a set for damage, truncation, mixed encoders and wrong counts. Exit code 3 if there is a problem."""
    from ovbench.methods.reme.set_folder import find_set

    found = find_set(folder)
    from ovbench.training.reference_set.inspect import verify_set  # loads torch, not before the set is there

    return print_verdict("set", folder, verify_set(found), as_json)


@reference.command("merge")
@click.argument("folders", nargs=-1, required=True, metavar="REF...", type=options.FOLDER)
@click.option("--out", required=True, type=options.OutFolder(), metavar="REF", help="Folder of the merged set.")
@options.settings
@options.device
@options.as_json
def merge(folders: tuple[Path, ...], out: Path, settings: tuple[str, ...], device: str, as_json: bool) -> int:
    """Merge sets that were built on several machines from different images with equal settings.

    Filters need all images, so they run again on the files below stages/. With --set, for example --set filter=none,
    they run with other settings; this also makes a variant of one set.
    """
    from ovbench.config.load import override_pairs
    from ovbench.training.reference_set.merge_sets import merge_sets
    from ovbench.utils.provenance import choose_device

    return _print_set(merge_sets(folders, out, override_pairs(settings, "--set"), choose_device(device)), out, as_json)


@reference.command("recall")
@click.argument("folder", metavar="REF")
@click.option("--topk", type=click.IntRange(1), default=1000, show_default=True, help="Number of segments to find.")
@click.option(
    "--probes", type=click.IntRange(1), multiple=True, default=[8, 32, 128], show_default=True,
    help="Number of index cells to search. Repeatable.",
)  # fmt: skip
@click.option("--rows", type=click.IntRange(1), default=300, show_default=True, help="Number of segments to look up.")
@options.as_json
def recall(folder: str, topk: int, probes: tuple[int, ...], rows: int, as_json: bool) -> int:
    """Measure the recall and the speed of FAISS's approximate search on a set."""
    from ovbench.methods.reme.set_folder import find_set

    stored = find_set(folder)
    from ovbench.methods.reme.approximate_search import measure_recall  # loads torch, as above
    from ovbench.methods.reme.reference_store import load_set
    from ovbench.results.console import show
    from ovbench.training.reference_set.inspect import recall_table

    found = measure_recall(load_set(stored).bank, topk, probes, rows)
    if as_json:
        click.echo(json.dumps([one._asdict() for one in found], indent=1))
    else:
        show(recall_table(found))
    return 0
