"""``ovbench report``."""

from __future__ import annotations

from pathlib import Path

import click

from ovbench.cli import options, say
from ovbench.utils.text import size_text


@click.command()
@click.argument("runs", nargs=-1, required=True, type=options.RECORD, metavar="RECORD|FOLDER...")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, metavar="FILE",
    help="File to write.",
)  # fmt: skip
@click.option(
    "--images", type=click.IntRange(min=0), default=24, show_default=True, metavar="N",
    help="Show the N worst images of each run; they are labelled again. 0 needs no data and no weights.",
)  # fmt: skip
@click.option(
    "--card", "cards", multiple=True, type=click.Path(dir_okay=False), metavar="CARD.toml",
    help="Your own card of a benchmark that a record names. Repeatable.",
)  # fmt: skip
@click.option("--run-code", is_flag=True, help="Also run the code of methods that a record names as FILE.py or module.")
@options.device
@options.data_root
def report(
    runs: tuple[Path, ...], out: Path, images: int, cards: tuple[str, ...], run_code: bool, device: str,
    data_root: Path | None,
) -> None:  # fmt: skip
    """Write one HTML file about records and the ledgers beside them. A browser shows it without a network.

    The page has mIoU with intervals, every class, the largest confusions, the images that cost most mIoU, and the
    settings and versions of the runs.

    \b
    ovbench report runs/corrclip-mini-1a2b3c4d.json
    ovbench report runs --images 50 --out runs.html
    """
    from ovbench.results.report.runs import gather, notes_of
    from ovbench.utils.files import write_bytes

    found = gather(runs)  # a mistake is answered before torch is imported
    from ovbench.results.report.error_images import RelabelOptions, read_cards
    from ovbench.results.report.page import build_page

    page = build_page(found, images, RelabelOptions(data_root, device, read_cards(cards), run_code, out.parent))
    write_bytes(out, page)
    for note, files in notes_of(found).items():
        say(f"{files[0] if len(files) == 1 else f'{len(files)} runs'}: {note}", err=True)
    say(f"report: {out} ({size_text(len(page))})", err=True)
