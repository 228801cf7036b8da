"""Read TOML files and write their strings, with errors that name the file and the key."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ovbench.utils.errors import InputError, first_line

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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"malformed TOML: {first_line(error)}", where=str(path)) from None


def toml_string(text: str) -> str:
    r"""Return a text as a TOML string, in its own letters.

    Example:
        >>> toml_string('a "b" 海')
        '"a \\"b\\" 海"'
    """
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
