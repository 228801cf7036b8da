"""``ovbench data``: prepare, verify and subset benchmarks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from ovbench.cli import options, say

WORKERS = click.option(
    "--workers",
    type=click.IntRange(1),
    default=min(8, os.cpu_count() or 1),
    show_default=True,
    help="Number of processes.",
)


@click.group(name="data", short_help="Prepare, verify and subset benchmarks; propose cards.")
def data() -> None:
    """Prepare benchmarks from official downloads, verify them on disk, choose subsets, propose cards of own data."""


@data.command("new")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--classes", type=click.Path(path_type=Path), metavar="FILE",
    help="Class names, one per line in label order, or names with colours (road #804080). [default: found in FOLDER]",
)  # fmt: skip
@click.option("--name", help="Name of the dataset. [default: the name of the folder]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="CARD.toml",
    help="File of the card. [default: ovbench.toml in FOLDER, or beside an archive]",
)  # fmt: skip
@WORKERS
@options.as_json
def new_command(folder, classes, name, out, workers, as_json) -> None:
    """Look at FOLDER, propose a card with what is recognised there, and verify it.

    FOLDER may be a zip or tar archive. COCO annotations, Parquet and Arrow files, and pairs of image and label files
    are recognised. Exit code 3 if the files do not fit the card.

    \b
    ovbench data new ~/photos
    ovbench data new ~/drone.zip --classes colours.txt
    """
    from ovbench.data.propose import propose, with_count

    proposal = propose(folder, classes=classes, name=name, out=out)
    proposal.write()
    from ovbench.data.card import load_card
    from ovbench.data.verify import verify_and_remember
    from ovbench.utils.errors import InputError

    card = load_card(str(proposal.card))
    with _bar(card.name, "image") as bar:
        result = verify_and_remember(card, workers=workers, begin=_starts(bar), advance=bar.update)
    if result.ok:
        with_count(proposal.card, result.listed_images)
    if as_json:
        facts = {"card": str(proposal.card), "recognised": list(proposal.notes), "verified": result.as_dict()}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo("\n".join(f"recognised: {note}" for note in proposal.notes))
        click.echo(f"{proposal.card}:\n\n{proposal.card.read_text(encoding='utf-8')}")
        click.echo(_report(result))
    if not result.ok:
        first = next(p.message for p in result.problems if p.is_error)
        fix = f"correct {proposal.card}, then run: ovbench data verify {card.argument}"
        raise InputError(first, where=card.name, fix=fix)
    from ovbench.data.user_config import config_file

    say(f"next: ovbench eval -m clip -d {card.argument}", err=True)
    say(f'to use it by its name, "{card.name}", add the card to "cards" in {config_file()}', err=True)


@data.command("prepare")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=options.complete_datasets)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the download, unpacked or with the original archives.",
)
@options.data_root
@click.option(
    "--image-format",
    type=click.Choice(["jpg", "png"]),
    help="ade847 only: jpg compresses the resized image "
    "as the published preparation does (the default), png keeps it exact.",
)
@WORKERS
@options.as_json
def prepare_command(names, source, data_root, image_format, workers, as_json) -> None:
    """Convert an official download of each NAME into the files that ovbench reads.

    The files are written below the data root, or beside the download if no data root is given. Existing files are
    kept: repeat the command to resume an interrupted preparation.

    \b
    ovbench data prepare coco-stuff coco-object --source ~/downloads/coco
    ovbench data prepare ade847 --source ~/downloads --data-root ~/data
    """
    from ovbench.data.card import load_card
    from ovbench.data.find import NothingFound, data_roots
    from ovbench.data.groups import all_members
    from ovbench.data.prepare import prepare, target_root
    from ovbench.data.shipped_cards import group_of
    from ovbench.utils.errors import InputError
    from ovbench.utils.paths import local_folder

    cards = [load_card(name) for name in all_members(names)]
    roots = data_roots(data_root) if data_root is None else [data_root]
    roots = [local_folder(str(root), "the folder of prepared files", "--data-root") for root in roots[:1]]
    done, skipped, failed = [], [], []
    for card in cards:
        root = target_root(card, roots[0]) if roots else None
        with _bar(card.name, "file") as bar:
            how = {"workers": workers, "image_format": image_format, "begin": _starts(bar), "advance": bar.update}
            try:
                done.append(prepare(card, source, root, **how))
            except InputError as error:
                if group_of(card.name) not in names:
                    raise
                (skipped if isinstance(error, NothingFound) else failed).append(error)
    for error in skipped:
        say(f"skipped: {error}", err=True)
    if skipped and not done and not failed:
        raise skipped[0]
    if as_json:
        click.echo(json.dumps([{**p._asdict(), "root": str(p.root)} for p in done], indent=2))
    for p in () if as_json else done:
        news = f"{p.written} files written" if p.written else "nothing to do"
        say(f"{p.dataset}: {news}, {p.already_there} already there, in {p.root}")
    for error in failed[1:]:
        say(f"error: {error}", err=True)
    if failed:
        raise failed[0]


@data.command("verify")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=options.complete_datasets)
@options.data_root
@click.option("--partial", "partial_copy", is_flag=True, help="Accept fewer images than the split has.")
@WORKERS
@options.as_json
def verify_command(names, data_root, partial_copy, workers, as_json) -> None:
    """Read every image and label of each NAME and report all problems. Exit code 3 if there is one.

    Checks counts, pairs, sizes, decoding and label values, and prints the fraction of pixels of each class.

    \b
    ovbench data verify ade150 --data-root ~/data
    ovbench data verify voc21 voc20 --json
    """
    from ovbench.data.card import load_card
    from ovbench.data.groups import all_members

    # a mistake is answered before image libraries are imported
    cards = [load_card(name) for name in all_members(names)]
    from ovbench.data.verify import verify_and_remember
    from ovbench.utils.errors import InputError

    troubles, printed = [], []
    for card in cards:
        with _bar(card.name, "image") as bar:
            try:
                result = verify_and_remember(
                    card, data_root, partial_copy=partial_copy, workers=workers, begin=_starts(bar), advance=bar.update
                )
            except InputError as error:
                troubles.append(error)
                printed.append({"dataset": card.name, "ok": False, "error": str(error)})
                continue
        troubles += [InputError(p.message, where=card.name) for p in result.problems if p.is_error]
        printed.append(result.as_dict())
        if not as_json:
            click.echo(_report(result))
    if as_json:
        click.echo(json.dumps(printed, indent=2))
    if troubles:
        for trouble in troubles[1:]:
            say(f"error: {trouble}", err=True)
        raise troubles[0]


def _starts(bar):
    """Return a function that sets the total of a bar, 0 if unknown; `tqdm.reset` would draw the bar too early."""

    def begin(total: int) -> None:
        bar.n, bar.total = 0, total or None

    return begin


def _bar(title: str, unit: str, **options):
    """Return a progress bar on stderr, which appears on a terminal if the work takes longer than a moment."""
    from tqdm import tqdm

    return tqdm(desc=title, unit=unit, delay=0.3, disable=None, **options)


def _report(result) -> str:
    """Return the verification as text: folder, problems, and the images and pixels of each class."""
    from ovbench.results.console import FEW_CLASSES, MANY_CLASSES

    total, expected = sum(result.pixels) or 1, result.expected_images
    lines = [
        f"{result.card.name}: {'ok' if result.ok else 'NOT OK'}",
        f"  {result.listed_images} images{f' of {expected}' if expected else ''} in {result.root}",
        f"  layout {result.layout}, labels: {result.encoding.means or result.encoding.name}",
    ]
    if result.sizes:
        (h0, w0), (h1, w1) = result.sizes
        lines.append(f"  width {w0}..{w1}, height {h0}..{h1}")
    ignored = result.ignored_pixels / (sum(result.pixels) + result.ignored_pixels or 1)
    lines.append(f"  {ignored:.2%} of the pixels are ignored")
    for problem in result.problems:
        lines.append(f"  {'error' if problem.is_error else 'note'}: {problem.message}")
        if problem.examples:
            lines.append(f"         e.g. {', '.join(problem.examples)}")
    lines += [f"  not confirmed: {fact}" for fact in result.card.unconfirmed]
    shown = list(range(len(result.card.classes)))
    if len(shown) > MANY_CLASSES and sys.stdout.isatty():
        shown.sort(key=lambda index: -result.pixels[index])
        few, empty = FEW_CLASSES, result.pixels.count(0)
        lines.append(
            f"  the {few} largest and the {few} smallest of {len(shown)} classes, {empty} without pixels; "
            "all: --json, or in a pipe"
        )
        shown = [*shown[:few], *shown[-few:]]
    lines.append(f"  {'class':>5}  {'pixels':>8}  {'images':>6}  name")
    for index in shown:
        share, images = result.pixels[index] / total, result.images[index]
        lines.append(f"  {index:>5}  {share:>8.3%}  {images:>6}  {result.card.classes[index]}")
    return "\n".join(lines)


@data.command("subset")
@click.argument("name", metavar="NAME", shell_complete=options.complete_datasets)
@click.option("-n", "count", type=int, default=100, show_default=True, help="Number of images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write [default: NAME-subset-N-SEED.json].")
@options.data_root
@WORKERS
@options.as_json
def subset_command(name, count, seed, out, data_root, workers, as_json) -> None:
    """Choose images of NAME that cover every class and write a manifest for `eval --subset`.

    \b
    ovbench data subset ade150 -n 100 --seed 0
    ovbench data subset coco-stuff -n 200 --out stuff200.json
    """
    from ovbench.data.card import load_card

    card = load_card(name)
    from ovbench.data.dataset import open_dataset
    from ovbench.data.subset import choose_subset, write_manifest

    dataset = open_dataset(card, data_root)
    with _bar(dataset.card.name, "label", total=len(dataset)) as bar:
        choice = choose_subset(dataset, count, seed, workers=workers, advance=bar.update)
    out = out or Path(f"{dataset.card.name}-subset-{count}-{seed}.json")
    write_manifest(choice.manifest, out)
    if as_json:
        facts = {"file": str(out), "sha256": choice.manifest.sha256, "images": count}
        click.echo(json.dumps({**facts, "left_out": choice.left_out, "absent": choice.absent}, indent=2))
        return
    say(f"{out}: {count} of {len(dataset)} images, sha256 {choice.manifest.sha256[:16]}")
    if choice.left_out:
        say(f"classes without an image: {', '.join(choice.left_out)}; choose more images")
    if choice.absent:
        say(f"classes that no label contains: {', '.join(choice.absent)}")
