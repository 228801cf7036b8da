"""Write docs/cli.md, the reference of the command line, from the commands: python scripts/make_cli_docs.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from ovbench.cli import cli

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """# Command line

This page is written by `scripts/make_cli_docs.py` from the commands. Data goes to stdout, progress to stderr.

Exit codes: 0 done, 1 internal error, or a difference that `check`, `parity` or `rerun` found, 2 wrong usage, 3 bad
input (data, weights, settings, records), 4 some images failed, 5 the gate failed, 130 and 143 interrupted, 141 the
reader of stdout closed the pipe.

The shell completes names of methods, benchmarks, suites and layouts after
`eval "$(_OVBENCH_COMPLETE=bash_source ovbench)"` in `~/.bashrc` (`zsh_source` in `~/.zshrc`; for fish
`_OVBENCH_COMPLETE=fish_source ovbench | source`).
"""


def page() -> str:
    """Return the page."""
    context = click.Context(cli, info_name="ovbench")
    sections = [HEAD]
    for name in cli.list_commands(context):
        sections += _sections(cli.get_command(context, name), f"ovbench {name}", 2)
    return "\n".join(sections)


def _sections(command: click.Command, name: str, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"{'#' * level} {name}", "", *_help(command.help or ""), "", "```", usage, "```", ""]
    options = [p for p in command.get_params(context) if isinstance(p, click.Option) and "--help" not in p.opts]
    lines += ["| option | |", "|---|---|"] if options else []
    for option in options:
        names, explained = (text.replace("|", "\\|") for text in option.get_help_record(context) or ("", ""))
        lines += [f"| `{names}` | {explained} |"] if names else []
    yield "\n".join(lines) + "\n"
    for child in getattr(command, "commands", {}).values():
        yield from _sections(child, f"{name} {child.name}", level + 1)


def _help(text: str) -> Iterator[str]:
    """Yield paragraphs; a block that click would not wrap becomes code."""
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("\b\n"):
            yield f"```\n{block.removeprefix(chr(8) + chr(10))}\n```\n"
        else:
            yield block + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
