"""Help is there for everything, and comes without loading anything heavy."""

import subprocess
import sys

import click
import pytest

from ovbench.cli import COMMANDS, cli

HEAVY = ("torch", "numpy", "mmengine", "mmseg", "timm", "open_clip", "pandas", "scipy", "skimage", "PIL", "rich")


def commands():
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        yield (name,), command
        for child in getattr(command, "commands", {}):
            yield (name, child), command.commands[child]


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("eval", "--help"), ("evl",)])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys; sys.argv = ['ovbench', *sys.argv[1:]]\n"
        "from ovbench.__main__ import main\n"
        "try: main()\n"
        f"finally: print('LOADED', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("path", "command"), [pytest.param(p, c, id=" ".join(p)) for p, c in commands()])
def test_every_command_and_option_is_explained(path, command):
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, (path, parameter.name)


def test_unknown_command_names_the_closest(ovbench):
    done = ovbench("segmnt")
    assert done.code == 2 and 'Did you mean "segment"' in done.err


def test_the_level_of_messages_is_chosen(ovbench, monkeypatch):
    asked = []
    monkeypatch.setattr("logging.basicConfig", lambda **options: asked.append(options["level"]))
    assert ovbench("--log-level", "error", "list", "suites", "--json").code == 0 and asked == ["ERROR"]
    assert ovbench("list", "suites", "--json").code == 0 and asked == ["ERROR"]
    assert "'loud' is not one of" in ovbench("--log-level", "loud", "list", "suites").err
