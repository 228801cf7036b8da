"""``ovbench bank``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options, say
from ovbench.cli.built import print_build, print_verdict


@click.group(name="bank", short_help="Build and check CorrCLIPv2's banks of regions.")
def bank() -> None:
    """Build and check banks of regions for CorrCLIPv2, in the official file format, from images without labels."""


@bank.command("build")
@click.option(
    "--images", type=options.ImageFolder(), required=True, metavar="DIR|mini",
    help="Folder of images, or mini for its training images.",
)  # fmt: skip
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER/NAME", help="Folder and name of the bank."
)
@click.option("--like", metavar="NAME", help="Benchmark with the encoders and regions. [default: coco-stuff]")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@click.option("--part-size", type=click.IntRange(1), default=64, show_default=True, help="Images per saved file.")
@click.option("--shard", metavar="K/N", help="Only every N-th file from the K-th on; then build without --shard.")
@options.settings
@options.weights
@options.device
@options.as_json
def build(
    images: Path | str, out: Path, like: str | None, limit: int | None, part_size: int, shard: str | None,
    settings: tuple[str, ...], weights: tuple[str, ...], device: str, as_json: bool,
) -> int:  # fmt: skip
    """Build a bank. Repeat the command to resume an interrupted build, or to add images to a finished bank.

    \b
    ovbench bank build --images mini --out banks/mini
    ovbench bank build --images train2017 --out banks/mine --set regions=precomputed --set regions.folder=MASKS \\
        --weights auxiliary=ViT-B-16-quickgelu/dfn2b
    """
    from ovbench.methods.support.bank_files import refuse_published_name

    refuse_published_name(out)
    from ovbench.config.load import override_pairs
    from ovbench.evaluation.distributed import ProcessGroup, parse_shard
    from ovbench.training.region_bank.build_state import BankSources
    from ovbench.training.region_bank.builder import build_bank
    from ovbench.training.region_bank.settings import resolve_bank_plan
    from ovbench.utils.provenance import choose_device

    folder = images
    if images == options.MINI:
        from ovbench.training.mini_world import IMAGES, mini_world

        folder, like = mini_world(limit or IMAGES) / "images" / "train", like or options.MINI
    plan = resolve_bank_plan(
        like or "coco-stuff", override_pairs(settings, "--set"), override_pairs(weights, "--weights")
    )  # fmt: skip
    processes = ProcessGroup()
    chosen = choose_device(device, processes.local_rank)
    if processes.is_main:
        encoders = {**plan.cell.backbones, "vfm": plan.vfm} | ({"auxiliary": plan.auxiliary} if plan.auxiliary else {})
        shown = ", ".join(f"{role} {spec}" for role, spec in encoders.items())
        say(f"planned: {folder} to {out}, {shown}, regions {plan.cell.regions['source']}, on {chosen}", err=True)
    sources = BankSources(folder, out, limit, part_size, parse_shard(shard))
    note = build_bank(sources, plan, chosen, processes)
    if processes.is_main and shard:
        say(f"shard {shard} is done; after the last one, run the same command without --shard", err=True)
    processes.close()
    return 0 if note is None else _print_note(note, out, as_json)


def _print_note(note: dict, out: Path, as_json: bool) -> int:
    told = f"{out}: {note['rows']} regions of {note['images']} images; use it with --set support={out}"
    return print_build(note, as_json, lambda: click.echo(told))


@bank.command("info")
@click.argument("spec", metavar="FOLDER/NAME")
@options.as_json
def info(spec: str, as_json: bool) -> int:
    """Print the files, the sizes and the origin of a bank."""
    from ovbench.methods.support.bank_files import find_bank

    find_bank(spec)
    from ovbench.results.console import show
    from ovbench.training.region_bank.inspect_bank import bank_table, describe_bank  # loads torch

    found = describe_bank(spec)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        show(bank_table(found))
    return 0


@bank.command("verify")
@click.argument("spec", metavar="FOLDER/NAME")
@options.as_json
def verify(spec: str, as_json: bool) -> int:
    """Check a bank for damage, truncation, mixed files and wrong rows. Exit code 3 if there is a problem."""
    from ovbench.methods.support.bank_files import find_bank

    find_bank(spec)
    from ovbench.training.region_bank.inspect_bank import verify_bank  # loads torch

    return print_verdict("bank", spec, verify_bank(spec), as_json)


@bank.command("merge")
@click.argument("banks", nargs=-1, required=True, metavar="FOLDER/NAME...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER/NAME", help="The merged bank.")
@options.as_json
def merge(banks: tuple[Path, ...], out: Path, as_json: bool) -> int:
    """Merge banks that were built on several machines from different images with equal settings."""
    from ovbench.methods.support.bank_files import known_note, refuse_published_name

    refuse_published_name(out)
    for base in banks:
        known_note(base)
    from ovbench.training.region_bank.merge_banks import merge_banks  # loads torch

    return _print_note(merge_banks(banks, out), out, as_json)
