"""Render the HTML file with template, style, scripts and data.

Its content security policy allows only its own style and script, by their hashes, and no request to a network. Names of
classes and images cannot run code.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ovbench.utils.html import html_templates
from ovbench.utils.paths import asset

SCRIPTS = ("base", "table", "classes", "viewer", "images", "main")
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def render(
    runs: Sequence[Mapping[str, Any]], notes: Mapping[str, Sequence[str]], elements: Mapping[str, Mapping[str, Any]],
    best: int = 0,
) -> str:  # fmt: skip
    """Render the page.

    Args:
        runs: The content of each run that needs no script, and the id of the element with its data.
        notes: Notes, each with the names of its files.
        elements: JSON documents for the scripts, by element id.
        best: Position of the run that is shown first.
    """
    environment = html_templates("report")
    environment.filters["percent"] = _percent
    style = _source("page.css")
    script = '"use strict";\n(() => {\n' + "".join(_source(f"{name}.js") for name in SCRIPTS) + "})();\n"
    return environment.get_template("page.html").render(
        runs=runs, notes=notes, best=best, style=Markup(style), script=Markup(script),
        style_hash=_hash(style), script_hash=_hash(script),
        elements={name: inert_json(value) for name, value in elements.items()},
    )  # fmt: skip


def inert_json(value: Any) -> Markup:
    """Return JSON for a script element; no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character, escaped in UNSAFE.items():
        text = text.replace(character, escaped)
    return Markup(text)


def _source(name: str) -> str:
    return asset("report", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"
