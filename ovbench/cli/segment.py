"""``ovbench segment``."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovbench.cli import options, say

if TYPE_CHECKING:
    from ovbench.inference.segment import Result

SAVED = ("overlay", "labels", "masks", "coco", "scores", "confidence", "server")


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE|FOLDER|PATTERN|-...")
@click.option(
    "--class", "-c", "classes", multiple=True, metavar="NAME",
    help='A class; separate synonyms by ";", as in -c "dog; puppy". Repeatable.',
)  # fmt: skip
@click.option(
    "--classes", "classes_file", type=click.Path(path_type=Path), metavar="FILE",
    help="Classes, one per line; empty lines and lines that begin with # are skipped.",
)  # fmt: skip
@click.option(
    "--method", "-m", default="corrclip", show_default=True, metavar="NAME", shell_complete=options.complete_methods,
    help="Method.",
)  # fmt: skip
@click.option(
    "--like", metavar="DATASET", shell_complete=options.complete_datasets,
    help="Benchmark with the settings and backbones, such as voc21; mini has toy networks for its drawn images. "
    "[default: coco-stuff]",
)  # fmt: skip
@options.settings
@options.refine
@options.weights
@options.device
@click.option(
    "--save", "saved", multiple=True, type=click.Choice(SAVED), default=("overlay", "labels"), show_default=True,
    help="What to write: overlay, labels (PNG with palette and class names), masks (a PNG per class), coco (one COCO "
    "JSON), scores (npz), confidence (PNG), server (PNG of the test server of Cityscapes or ADE20K, with --like). "
    "Repeatable.",
)  # fmt: skip
@click.option(
    "--opacity", type=click.FloatRange(0, 1), default=0.55, show_default=True, help="Opacity of the overlay's colours."
)
@click.option("--outline/--no-outline", default=True, show_default=True, help="Draw the borders of the classes.")
@click.option(
    "--nothing", type=click.FloatRange(0, 1, max_open=True), default=0.0, metavar="P",
    help='Pixels whose best class has a lower probability become the class "nothing of these".',
)  # fmt: skip
@click.option(
    "--megapixels", type=click.FloatRange(min=0), default=2.0, show_default=True, metavar="N",
    help="Larger images are labelled at this size if the method has region maps or PAMR, which need memory; 0: never.",
)  # fmt: skip
@click.option(
    "--out", type=options.OutFolder(), default=Path(), help="Folder of the output. [default: the current one]"
)
@click.option(
    "--existing", type=click.Choice(["refuse", "skip", "replace"]), default="refuse", show_default=True,
    help="What to do if outputs exist: stop before the start, skip these images, or replace them.",
)  # fmt: skip
@options.as_json
def segment(images: tuple[str, ...], as_json: bool, **arguments: Any) -> int:
    """Label images with your own classes: write an overlay and a label map (pixel value = index of the class).

    \b
    ovbench segment scene.png -c "red ring" -c grass -c "sky; clouds" --like mini
    ovbench segment street.jpg holiday/ -c road -c car -c tree --out labelled
    find photos -name "*.jpg" | ovbench segment - --classes words.txt --save coco --out labelled
    """
    from ovbench.inference.segment import Request, check_request

    request = Request(**arguments)
    checked = check_request(request)  # a mistake is answered before NumPy and torch are imported, which takes seconds
    from ovbench.evaluation.plan import require_weights
    from ovbench.inference.segment import segment_images

    with tempfile.TemporaryDirectory(prefix="ovbench-") as folder:
        result = segment_images(
            images, request, checked, stdin=click.get_binary_stream("stdin").read, folder=Path(folder),
            require=require_weights, say=functools.partial(say, err=True),
        )  # fmt: skip
    _print(result, as_json)
    return 4 if result.failed else 0


def _print(result: Result, as_json: bool) -> None:
    from ovbench.results.console import share_table, show

    for path, reason in result.failed.items():
        say(f"failed: {path}: {reason}", err=True)
    if as_json:
        click.echo(json.dumps(result.as_dict(), indent=1))
        return
    if result.images:
        show(share_table(result.classes()))
    for image in result.images if len(result.images) == 1 else ():
        for what, path in image.paths.items():
            say(f"{what}: {path}", err=True)
    if len(result.images) != 1:
        line = f"{len(result.images)} images labelled, {result.skipped} skipped; outputs in {result.folder}"
        say(line, err=True)
