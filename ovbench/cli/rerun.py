"""``ovbench rerun``."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from ovbench.cli import options, say
from ovbench.utils.text import short_text

SHOWN = 12  # differences that are listed


@click.command()
@click.argument("record", type=options.RECORD, metavar="RECORD|ID")
@click.option(
    "--out", type=options.OutFolder(), metavar="FOLDER",
    help="Keep the new record and its ledger here. [default: a temporary folder]",
)  # fmt: skip
@options.data_root
@click.option("--run-code", is_flag=True, help="Allow a method that is code outside ovbench.")
@options.as_json
def rerun(record: Path, out: Path | None, data_root: Path | None, run_code: bool, as_json: bool) -> int:
    """Repeat the run of RECORD with its arguments, and compare the counts of every image.

    Prints what differs between the two runs: settings, data, weights, code and machine. Exit code 1 if counts differ.

    \b
    ovbench rerun runs/first.json
    """
    from ovbench.evaluation.record import read_record

    read_record(record)
    from ovbench.results.rerun import repeat  # loads torch, not before the record is known to be one

    with TemporaryDirectory() as folder:
        done = repeat(record, out or Path(folder), data_root=data_root, run_code=run_code)
    score = done.record["metrics"]["mIoU"]
    if as_json:
        differing = [{"setting": each.key, "then": each.first, "now": each.second} for each in done.differing]
        facts = {"exact": done.exact, "images": done.total, "other_counts": done.images, "differing": differing}
        click.echo(json.dumps({**facts, "mIoU": score}, indent=1))
        return 0 if done.exact else 1
    for each in done.differing[:SHOWN]:
        say(f"differs: {each.key}: {short_text(each.first)} then, {short_text(each.second)} now")
    if len(done.differing) > SHOWN:
        say(f"differs: {len(done.differing) - SHOWN} more, see --json")
    miou = "-" if score is None else f"{100 * score:.2f}"
    if done.exact:
        say(f"repeated exactly: the counts of all {done.total} images are equal, mIoU {miou}")
        return 0
    say(f"not repeated: {len(done.images)} of {done.total} images have other counts, first {done.images[0]}; "
               f"mIoU {miou} now")  # fmt: skip
    return 1
