"""``ovbench weights``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ovbench.cli import options, say
from ovbench.utils.text import size_text

if TYPE_CHECKING:
    from ovbench.evaluation.needed_files import NeededFile


@click.group()
def weights() -> None:
    """List and fetch published weights."""


def _selection(command: click.Command) -> click.Command:
    for option in (
        options.protocol, options.weights, options.settings,
        options.datasets("Benchmark; repeatable. [default: all benchmarks of ovbench]"),
        options.methods("Method; repeatable. [default: all methods, if --dataset is given]"),
    ):  # fmt: skip
        command = option(command)
    return command


@weights.command(name="list")
@_selection
@options.as_json
def list_weights(
    methods: tuple[str, ...], datasets: tuple[str, ...], settings: tuple[str, ...], weights: tuple[str, ...],
    protocol: str, as_json: bool,
) -> None:  # fmt: skip
    """List the files that methods need on benchmarks: URL, size, sha256, licence, and where they are on this machine.

    Without --method and --dataset, it lists all files that ovbench knows by a short name. Sizes and hashes of missing
    files come from their hosts; without a connection they are unknown.

    \b
    ovbench weights list --method corrclip --dataset voc21
    """
    from ovbench.evaluation.needed_files import with_facts_of_host

    rows = with_facts_of_host(_needed(methods, datasets, settings, weights, protocol))
    if as_json:
        shown = [{key: value for key, value in row._asdict().items() if key != "source"} for row in rows]
        click.echo(json.dumps(shown, indent=1))
    else:
        _print(rows)


@weights.command(name="fetch")
@_selection
def fetch_weights(
    methods: tuple[str, ...], datasets: tuple[str, ...], settings: tuple[str, ...], weights: tuple[str, ...],
    protocol: str,
) -> int:  # fmt: skip
    """Download all files that methods need on benchmarks. Exit code 3 if some are still missing.

    Run it once with a connection, for example before a job on a cluster whose nodes have none.

    \b
    ovbench weights fetch --method corrclip --dataset voc21
    """
    from ovbench.evaluation.needed_files import fetch
    from ovbench.utils.errors import InputError, UsageError

    if not methods and not datasets:
        raise UsageError("nothing to fetch", fix="give --method, --dataset or both; `ovbench weights list` lists all")
    rows, problems = _needed(methods, datasets, settings, weights, protocol), []
    for row in rows:
        try:
            found = fetch(row)
        except InputError as error:
            problems.append(row.need)
            say(f"{row.need}: {error.what}", err=True)
        else:
            say(f"{row.need}: {found.path}")
    if problems:
        raise InputError(
            f"{len(problems)} of {len(rows)} files are missing",
            fix="run the command on a machine with a connection and HF_HOME=FOLDER, copy FOLDER here and set HF_HOME, "
            "or give local files with --weights",
        )
    return 0


def _needed(
    methods: tuple[str, ...], datasets: tuple[str, ...], settings: tuple[str, ...], weights: tuple[str, ...],
    protocol: str,
) -> list[NeededFile]:  # fmt: skip
    """Return the files of all cells of the selection, or all known files without one."""
    from ovbench.config.load import override_pairs, resolve
    from ovbench.data.card import list_cards, load_card
    from ovbench.evaluation.needed_files import all_files, files_of_cells
    from ovbench.utils.registry import METHODS

    if not methods and not datasets:
        return all_files()
    overrides, backbones = override_pairs(settings, "--set"), override_pairs(weights, "--weights")
    cards = [load_card(name) for name in datasets or list_cards()]
    names = [card.name for card in cards if datasets or not card.generator]
    return files_of_cells(
        resolve(method, name, overrides, backbones, protocol, incomplete=True)
        for method in methods or METHODS.names()
        for name in names
    )


def _print(rows: list[NeededFile]) -> None:

    for row in rows:
        say(f"{row.need}: {row.file or row.advice}")
        facts = {
            "url": row.url, "size": "" if row.size is None else size_text(row.size), "sha256": row.sha256,
            "licence": row.licence, "here": row.path or "missing",
            "note": row.advice if row.file else "",
        }  # fmt: skip
        for name, value in facts.items() if row.file else ():
            if value or name in ("size", "sha256"):
                say(f"  {name:8}{value or 'unknown'}")
    missing = sum(row.path is None for row in rows)
    say(f"{len(rows)} files, {missing} of them missing" if rows else "no files: networks of mini need none")
