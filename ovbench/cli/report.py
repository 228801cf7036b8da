"""``ovbench report``."""

from __future__ import annotations

from pathlib import Path

import click

from ovbench.cli import options


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECORD|FOLDER...")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, metavar="FILE",
    help="The page.",
)  # fmt: skip
@click.option(
    "--images", type=click.IntRange(min=0), default=24, show_default=True, metavar="N",
    help="Pictures of the N worst images of each run, which are labelled again for them; 0 needs no data or weights.",
)  # fmt: skip
@click.option(
    "--card", "cards", multiple=True, type=click.Path(dir_okay=False), metavar="CARD.toml",
    help="The card of a benchmark of your own that a record is of. Repeatable.",
)  # fmt: skip
@click.option(
    "--run-code", is_flag=True, help="For pictures, also run methods that a record names as a FILE.py or a module."
)
@options.device
@options.data_root
def report(
    runs: tuple[Path, ...], out: Path, images: int, cards: tuple[str, ...], run_code: bool, device: str,
    data_root: Path | None,
) -> None:  # fmt: skip
    """Write one HTML file about records and the ledgers beside them: mIoU with intervals, every class, the largest
    confusions, the images that cost most mIoU with pictures of the worst, and what the runs were made with. The file
    needs no network and nothing but a browser.

    \b
    ovbench report runs/corrclip-mini-1a2b3c4d.json
    ovbench report runs --images 50 --out runs.html
    """
    from ovbench.results.report.page import build_page
    from ovbench.results.report.pictures import Around, read_cards
    from ovbench.results.report.runs import gather, notes_of
    from ovbench.utils.files import write_bytes

    found = gather(runs)
    page = build_page(found, images, Around(data_root, device, read_cards(cards), run_code))
    write_bytes(out, page)
    for note, files in notes_of(found).items():
        click.echo(f"{files[0] if len(files) == 1 else f'{len(files)} runs'}: {note}", err=True)
    click.echo(f"report: {out} ({len(page) / 1e6:.1f} MB)", err=True)
