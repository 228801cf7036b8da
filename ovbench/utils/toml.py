"""Read TOML files, with errors that name the file and the key."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ovbench.utils.errors import InputError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        InputError: If the file is missing or malformed.
    """
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
    """Check that all keys of a table are known.

    Args:
        table: The table.
        known: The known keys.
        where: File and table, for the message.

    Raises:
        InputError: For the first unknown key, with close matches.
    """
    known = list(known)
    for key in table:
        if key not in known:
            miss = unknown("key", key, known, where=where)
            raise InputError(miss.what, where=where, fix=miss.fix)


def refuse_wrong_types(table: dict[str, Any], cls: type, where: str) -> None:
    """Check the values of a table against the annotations of the fields of ``cls``.

    Raises:
        InputError: For the first value of a wrong type.
    """
    hints = get_type_hints(cls)
    for key, value in table.items():
        if key in hints and not _fits(value, hints[key]):
            raise InputError(f'"{key}" must be {_words(hints[key])}, got {value!r}', where=where)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(part, get_args(hint)[0]) for part in value)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _words(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(_words(option) for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is tuple:
        return f"a list, each {_words(get_args(hint)[0])}"
    return {str: "a text", int: "a whole number"}.get(hint, getattr(hint, "__name__", str(hint)))
