"""Errors that a user can act on, with their exit codes, and helpers for messages."""

from __future__ import annotations

import difflib
import functools
import importlib
import logging
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from ovbench.utils.text import printable

SHOWN = 20  # names that a message lists at most
LONGEST = 8000  # characters of a message, which may quote a damaged file


class OvbenchError(Exception):
    """An error that a user can act on; it is never shown with a traceback.

    Args:
        what: What is wrong, as one clause.
        where: File, key, option or image id.
        fix: What to do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None):
        self.what, self.where, self.fix = what, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        remedy = f"; {self.fix}" if self.fix else ""
        text = printable(f"{self.what}{place}{remedy}")
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class UsageError(OvbenchError):
    """An argument or setting that does not exist or does not fit."""

    exit_code = 2


class InputError(OvbenchError):
    """A file (data, weights, settings) that is missing, damaged or of the wrong type."""

    exit_code = 3


class ScoreError(OvbenchError):
    """Scores of a method that are not finite numbers."""

    exit_code = 4


class ImageError(OvbenchError):
    """An image that failed in a run that stops at the first failure."""

    exit_code = 4


class Terminated(SystemExit):
    """The end of the process by a signal; any other SystemExit comes from code that calls ``sys.exit``."""


def unknown(kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> UsageError:
    """Return the error for an unknown name, with close matches.

    Args:
        kind: What the name is for, such as "method".
        name: The unknown name.
        known: All known names.
        where: File, key or option.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        fix: str | None = "did you mean " + " or ".join(f'"{c}"' for c in close) + "?"
    else:
        more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
        fix = "known: " + ", ".join(known[:SHOWN]) + more if known else None
    return UsageError(f'unknown {kind} "{name}"', where=where, fix=fix)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _lines(error: BaseException) -> list[tuple[str, int | None]]:
    """Return the files and lines of a traceback, then the line that could not be compiled."""
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        lines.append((error.filename, error.lineno))
    return [(file, line) for file, line in lines if not file.startswith("<")]


def is_own(path: Path, home: Path) -> bool:
    """Return whether a file is ``home`` or below it, but not in a Python installation or packages below it."""
    if path == home or not path.is_relative_to(home):
        return path == home
    pythons = {Path(sys.prefix), Path(sys.base_prefix)}
    installed = any(path.is_relative_to(python) and python.is_relative_to(home) for python in pythons)
    return not installed and not {"site-packages", "dist-packages"} & set(path.relative_to(home).parts)


def line_below(error: BaseException, home: Path) -> str | None:
    """Return the last line of an error's traceback in a file that `is_own`, as "FILE, line N", or None."""
    return next((f"{file}, line {line}" for file, line in reversed(_lines(error)) if is_own(Path(file), home)), None)


def last_line(error: BaseException, skip: Path) -> str | None:
    """Return the line where imported code failed, as "FILE, line N", or None.

    This is the last line in the folder of the first file that is not below ``skip`` and not in Python's import system.
    """
    library = Path(importlib.__file__).parent
    first = next((file for file, _ in _lines(error) if not _below(Path(file), (skip, library))), None)
    return first and line_below(error, Path(first).parent)


def _below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


@functools.cache
def warn_once(message: str) -> None:
    """Print a warning to standard error, once in a process."""
    logging.getLogger("ovbench").warning(message)
