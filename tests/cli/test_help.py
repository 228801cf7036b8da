"""Every command and option is explained; unknown names are answered with close ones."""

import click

from ovbench.cli import COMMANDS, cli


def commands():
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        yield (name,), command
        for child in getattr(command, "commands", {}):
            yield (name, child), command.commands[child]


def test_every_command_and_option_is_explained():
    known = dict(commands())
    assert len(known) > len(COMMANDS)
    for path, command in known.items():
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
