"""HTML pages from the templates of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovbench.utils.paths import asset

if TYPE_CHECKING:
    from jinja2 import Environment


def html_templates(folder: str) -> Environment:
    """Return the templates of a folder below ``ovbench/assets``; values are escaped, and a missing one is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not needed to start a command

    return Environment(
        loader=FileSystemLoader(asset(folder)), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
