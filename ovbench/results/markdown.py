"""Markdown tables and text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from ovbench.results.console import plain

SPECIAL = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|[\\`*|\[\]$~]|(?<!\S)#|!(?=\[)")


def escape(text: str) -> str:
    r"""Escape a text for Markdown: no markup, no HTML, no mention of a user.

    Example:
        >>> escape("a_b *c* <d> @e")
        'a_b \\*c\\* &lt;d&gt; &#64;e'
    """
    text = html.escape(plain(" ".join(text.split())), quote=False)
    return SPECIAL.sub(lambda found: "\\" + found[0], text).replace("@", "&#64;")


def table_row(cells: Iterable[str]) -> str:
    """Return one line of a table from cells in Markdown."""
    return "| " + " | ".join(cells) + " |"


def table_head(columns: Sequence[str], left: int = 1) -> list[str]:
    """Return the two head lines of a table.

    Args:
        columns: Names of the columns, as text.
        left: Number of columns that are aligned to the left; the others are aligned to the right.
    """
    return [table_row(map(escape, columns)), "|" + "---|" * left + "--:|" * (len(columns) - left)]
