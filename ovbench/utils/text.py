"""Values as short text for messages."""

from __future__ import annotations

import json
from typing import Any

LONGEST = 60  # characters of a value in a message


def short_text(value: Any) -> str:
    """Return a value as JSON, cut if it is long."""
    text = json.dumps(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def printable(text: str) -> str:
    r"""Return a text whose control characters, line breaks and lone surrogates are escaped.

    Example:
        >>> print(printable("a\x1b[2Jb"), printable("caf\udce9"), printable("café"))
        a\x1b[2Jb caf\udce9 café
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size_text(size: float) -> str:
    """Return a number of bytes with a decimal unit.

    Example:
        >>> size_text(999), size_text(1_500_000)
        ('999 B', '1.5 MB')
    """
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 1000 or unit == "TB":
            break
    return f"{size:.1f} {unit}"
