"""docs/cli.md is what the commands say of themselves, and the tutorials name commands and options that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import click
import pytest

from ovbench.cli import COMMANDS, cli

ROOT = Path(__file__).parents[2]
TUTORIALS = ("evaluate.md", "reproduce.md", "add-method.md", "gate.md", "cluster.md", "report.md")


def maker():
    spec = importlib.util.spec_from_file_location("make_cli_docs", ROOT / "scripts" / "make_cli_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current():
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == maker().page(), "stale: run python scripts/make_cli_docs.py"


def commands_on(page: str) -> list[list[str]]:
    """The ovbench lines of a page's code blocks, in words; lines continued by a backslash are one."""
    blocks = re.findall(r"^```(?:\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|-m )ovbench ([a-z].*)$", line) for line in lines]
    return [match[1].split("#")[0].split() for match in found if match]


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials_name_what_exists(name):
    used = commands_on((ROOT / "docs" / name).read_text(encoding="utf-8"))
    assert used
    for words in used:
        assert words[0] in COMMANDS, words
        command = cli.get_command(click.Context(cli), words.pop(0))
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word.split("=")[0] for word in words if re.match(r"-[a-z-]", word)} <= known, words


def test_tutorials_link_to_pages_that_exist():
    for name in TUTORIALS:
        for target in re.findall(r"\]\(([\w./-]+\.md)\)", (ROOT / "docs" / name).read_text(encoding="utf-8")):
            assert (ROOT / "docs" / target).is_file(), (name, target)
