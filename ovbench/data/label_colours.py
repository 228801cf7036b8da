"""Colours of classes in a card, for labels that are stored as pictures in colours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from ovbench.utils.errors import InputError

Colour = tuple[int, int, int]  # RGB, 0..255


def _as_colour(value: Any) -> Colour:
    text = re.fullmatch(r"#([0-9a-fA-F]{6})", value) if isinstance(value, str) else None
    parts = tuple(bytes.fromhex(text[1])) if text else tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(parts) != 3 or any(type(part) is not int or not 0 <= part <= 255 for part in parts):
        raise ValueError('must be a colour such as "#ff8000" or [255, 128, 0]')
    return parts


RawColour = Annotated[tuple[int, int, int], BeforeValidator(_as_colour)]


def check_colours(colours: Sequence[Colour], void: Sequence[Colour], classes: Sequence[str], where: str) -> None:
    """Check that each class has a colour of its own, and that no class has an ignored one.

    Args:
        colours: Colours of the classes in order; none if labels are not in colours.
        void: Ignored colours.
        classes: Names of the classes.
        where: The card and its table, for messages.

    Raises:
        InputError: If a colour is missing or stands twice.
    """
    if not colours:
        if void:
            raise InputError('"void_colours" needs "colours"', where=where, fix="write one colour for each class")
        return
    if len(colours) != len(classes):
        raise InputError(
            f'"colours" has {len(colours)} colours for {len(classes)} classes', where=where,
            fix="write one colour for each class, in label order",
        )  # fmt: skip
    seen: dict[Colour, str] = {}
    for colour, name in (*zip(colours, classes, strict=True), *((colour, "void_colours") for colour in void)):
        other = seen.setdefault(colour, name)
        if other != name:
            raise InputError(f'"{other}" and "{name}" have the same colour {hex_text(colour)}', where=where)


def hex_text(colour: Sequence[int]) -> str:
    """Return a colour as text.

    Example:
        >>> hex_text((255, 128, 0))
        '#ff8000'
    """
    return "#" + bytes(map(int, colour)).hex()
