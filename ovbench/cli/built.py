"""Print what was built, and what a check of it found, alike for sets of references and banks of regions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from ovbench.cli import say


def print_build(note: Mapping[str, Any], as_json: bool, show_counts: Callable[[], None]) -> int:
    """Print the note of a build; return exit code 4 if images failed, otherwise 0."""
    for text in note.get("warnings", ()):
        say(f"warning: {text}", err=True)
    for image, reason in note["failed"].items():
        say(f"failed: {image}: {reason}", err=True)
    if as_json:
        click.echo(json.dumps(note, indent=1))
    else:
        show_counts()
    return 4 if note["failed"] else 0


def print_verdict(kind: str, name: str, problems: Sequence[str], as_json: bool) -> int:
    """Print the problems that a check found; return exit code 3 if there are any, otherwise 0."""
    if as_json:
        click.echo(json.dumps({kind: name, "intact": not problems, "problems": problems}, indent=1))
    else:
        for text in problems:
            say(f"damaged: {text}", err=True)
        say(f"{name}: {len(problems)} problems" if problems else f"{name}: intact")
    return 3 if problems else 0
