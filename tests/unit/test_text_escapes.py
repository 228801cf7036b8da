"""Control characters of names never reach the terminal as they are."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import ovbench.cli
from ovbench.__main__ import _escape
from ovbench.cli import say
from ovbench.utils.errors import InputError
from ovbench.utils.text import printable

COMMANDS = Path(ovbench.cli.__file__).parent


def test_errors_escape_what_a_terminal_would_obey():
    error = InputError('the file "a\x1b[2J\nb" is empty', where="c\udce9\x07", fix="rename 天 é")
    assert str(error) == r'the file "a\x1b[2J\nb" is empty (c\udce9\x07); rename 天 é'
    assert all(c.isprintable() for c in str(error)) and str(error).encode()


def test_warnings_too():
    record = logging.LogRecord("ovbench", logging.WARNING, "", 0, "skipped: %s", ("\x1b]0;title\x07",), None)
    assert _escape(record) and record.getMessage() == r"skipped: \x1b]0;title\x07"


def test_lines_of_commands_too(capsys):
    say("record: /a\x1b[2J\nrecord: /b", err=True)
    assert capsys.readouterr().err == r"record: /a\x1b[2J\nrecord: /b" + "\n"


def test_no_command_prints_a_name_as_it_is():
    lines = [(path.name, line) for path in COMMANDS.glob("*.py") for line in path.read_text().splitlines()]
    printed = [(name, line) for name, line in lines if re.search(r'click\.echo\(f["\'].*\{', line)]
    assert lines and {name for name, _ in printed} <= {"__init__.py", "data.py"}, printed


def test_plain_text_stays():
    text = "mIoU 12.3 % of café “quoted” 天空 🙂"
    assert printable(text) == text
