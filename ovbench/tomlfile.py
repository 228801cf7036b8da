"""Reading TOML: the parser that this Python has, and errors that name the file and the key."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ovbench.errors import InputError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; InputError naming the file if it is missing or malformed."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise InputError(f'no file "{path}"', fix="check the path") from None
    except OSError as error:
        raise InputError(f'cannot read "{path}": {error.strerror}') from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"malformed TOML: {error}", where=str(path)) from None


def refuse_unknown_keys(table: dict[str, Any], known: Iterable[str], where: str) -> None:
    """Raises InputError for the first key that is not known, with the closest ones that are."""
    known = list(known)
    for key in table:
        if key not in known:
            miss = unknown("key", key, known, where=where)
            raise InputError(miss.what, where=where, fix=miss.fix)
