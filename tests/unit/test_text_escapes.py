"""Control characters of names never reach the terminal as they are."""

from __future__ import annotations

import logging

from ovbench.__main__ import _escape
from ovbench.utils.errors import InputError
from ovbench.utils.text import printable


def test_errors_escape_what_a_terminal_would_obey():
    error = InputError('the file "a\x1b[2J\nb" is empty', where="c\udce9\x07", fix="rename 天 é")
    assert str(error) == r'the file "a\x1b[2J\nb" is empty (c\udce9\x07); rename 天 é'
    assert all(c.isprintable() for c in str(error)) and str(error).encode()


def test_warnings_too():
    record = logging.LogRecord("ovbench", logging.WARNING, "", 0, "skipped: %s", ("\x1b]0;title\x07",), None)
    assert _escape(record) and record.getMessage() == r"skipped: \x1b]0;title\x07"


def test_plain_text_stays():
    text = "mIoU 12.3 % of café “quoted” 天空 🙂"
    assert printable(text) == text
