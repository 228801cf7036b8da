"""``ovbench segment``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--class", "-c", "classes", multiple=True, metavar="NAME",
    help='A class; separate synonyms by ";", as in -c "dog; puppy". Repeatable.',
)  # fmt: skip
@click.option(
    "--classes", "classes_file", type=click.Path(path_type=Path), metavar="FILE", help="Classes, one per line."
)
@click.option(
    "--method", "-m", default="corrclip", show_default=True, metavar="NAME", shell_complete=options.complete_methods,
    help="Method.",
)  # fmt: skip
@click.option(
    "--like", metavar="DATASET", shell_complete=options.complete_datasets,
    help="Benchmark with the settings and backbones, such as voc21; mini has toy networks for its drawn images.",
)  # fmt: skip
@options.settings
@options.refine
@options.weights
@options.device
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(), help="Folder of the output. [default: the current one]"
)
@options.as_json
def segment(
    image: Path, classes: tuple[str, ...], classes_file: Path | None, method: str, like: str | None,
    settings: tuple[str, ...], weights: tuple[str, ...], device: str, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Label IMAGE with your own classes: write an overlay and a label map (pixel value = index of the class).

    \b
    ovbench segment scene.png -c "red ring" -c grass -c "sky; clouds" --like mini
    ovbench segment street.jpg -c road -c car -c tree --like ade150
    """
    from ovbench.config.load import override_pairs, resolve
    from ovbench.data.card import load_card
    from ovbench.utils.errors import UsageError

    if like is not None:  # a mistake is answered before NumPy and torch are imported, which takes seconds
        resolve(method, load_card(like).name, override_pairs(settings, "--set"), override_pairs(weights, "--weights"))
    from ovbench.data.decode import read_image
    from ovbench.inference.label_image import gather_classes, label_image
    from ovbench.results.console import plain, share_table, show

    vocabulary = gather_classes(classes, classes_file)
    if like is None:
        raise UsageError(
            "--like is missing: it chooses the settings and networks",
            fix="give --like voc21, ade150, ... for real networks, which are downloaded, or "
            "--like mini for toy networks, which know only drawn images",
        )  # fmt: skip
    pixels = read_image(image)
    result = label_image(
        pixels, vocabulary, method=method, like=like, settings=settings, weights=weights, device=device, path=image
    )
    if result.note:
        click.echo(f"warning: {result.note}", err=True)
    overlay, label_map = result.save(out, image.stem)
    if as_json:
        written = {"overlay": str(overlay), "labels": str(label_map)}
        click.echo(json.dumps({"classes": result.fractions(), **written}, indent=1))
        return
    show(share_table(result.fractions()))
    click.echo(f"overlay: {plain(overlay)}\nlabels: {plain(label_map)}", err=True)
