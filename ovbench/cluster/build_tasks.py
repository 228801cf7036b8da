"""Tasks of a sweep that build what its cells need: reference sets and banks, divided into shards."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from ovbench.utils.errors import UsageError

COMMANDS = (("reference", "build"), ("reference", "merge"), ("bank", "build"))  # the only ones that a plan may have


class BuildCommands(NamedTuple):
    """The commands of the shards, which run at the same time, and the one that follows; [] if there is none."""

    shards: list[list[str]]
    last: list[str]


def build_commands(text: str, shards: int) -> BuildCommands:
    """Divide a command that builds a reference set or a bank.

    Args:
        text: The command, for example "reference build --images DIR --captions FILE --out REF".
        shards: Number of shards.

    Raises:
        UsageError: If it is another command, or has no --out or a shard.

    Example:
        >>> build_commands("bank build --images DIR --out banks/mine", 2).shards[1][-2:]
        ['--shard', '2/2']
        >>> build_commands("reference build --images mini --out ref", 2).last
        ['reference', 'merge', 'ref-shard1of2', 'ref-shard2of2', '--out', 'ref']
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"not a command: {error}", where="--build") from None
    words = words[1:] if words[:1] == ["ovbench"] else words
    if tuple(words[:2]) not in (("reference", "build"), ("bank", "build")):
        fix = "give `reference build ...` or `bank build ...`"
        raise UsageError(f'"{text}" builds no set or bank', where="--build", fix=fix)
    if "--out" not in words[:-1] or "--shard" in words:
        fix = "divide it with --build-shards"
        raise UsageError("the command needs --out, and no --shard", where="--build", fix=fix)
    if shards == 1:
        return BuildCommands([words], [])
    numbers = [f"{number}/{shards}" for number in range(1, shards + 1)]
    if words[0] == "bank":
        return BuildCommands([[*words, "--shard", number] for number in numbers], words)
    place = words.index("--out") + 1
    folders = [f"{words[place]}-shard{number.replace('/', 'of')}" for number in numbers]
    parts = [
        [*words[:place], folder, *words[place + 1 :], "--shard", number]
        for folder, number in zip(folders, numbers, strict=True)
    ]
    return BuildCommands(parts, ["reference", "merge", *folders, "--out", words[place]])


def is_build(words: Sequence[str]) -> bool:
    """Return whether a plan may have this command."""
    return tuple(words[:2]) in COMMANDS
