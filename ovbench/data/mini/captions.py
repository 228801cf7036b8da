"""Phrases and captions of drawings, with the concepts that they name.

A *concept* is what a phrase asks for: a material, or a thing whose colour, pattern and shape are each given or open.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import world
from .stream import Stream

_C, _P, _S = len(world.COLOURS), len(world.PATTERNS), len(world.SHAPES)
THING_CONCEPTS = (_C + 1) * (_P + 1) * (_S + 1)
CONCEPTS = THING_CONCEPTS + len(world.STUFF)
ENTITIES = len(world.STUFF) + _C * _P * _S


class Caption(NamedTuple):
    """A phrase, and the concepts that the image must have for it to be true."""

    text: str
    concepts: tuple[int, ...]


def concept(colour: str | None = None, pattern: str | None = None, shape: str | None = None) -> int:
    """Return the number of a concept of things.

    Args:
        colour: Name of the colour; None leaves it open.
        pattern: Name of the pattern; None leaves it open.
        shape: Name of the shape; None leaves it open.

    Returns:
        The number, below `THING_CONCEPTS`.
    """
    c = 0 if colour is None else 1 + world.COLOUR_NAMES.index(colour)
    p = 0 if pattern is None else 1 + world.PATTERN_NAMES.index(pattern)
    s = 0 if shape is None else 1 + world.SHAPE_NAMES.index(shape)
    return (c * (_P + 1) + p) * (_S + 1) + s


def implied() -> np.ndarray:
    """Return which concepts a pixel of each entity satisfies.

    Returns:
        bool (ENTITIES, CONCEPTS).
    """
    table = np.zeros((ENTITIES, CONCEPTS), bool)
    for m in range(len(world.STUFF)):
        table[m, THING_CONCEPTS + m] = True
    for number in range(len(world.STUFF), ENTITIES):
        c, p, s = world.thing(number)
        for bits in range(8):
            table[number, concept(c if bits & 1 else None, p if bits & 2 else None, s if bits & 4 else None)] = True
    return table


def name_material(material: int, stream: Stream) -> Caption:
    """Return one of the names of a material."""
    return Caption(stream.choice(world.STUFF[world.STUFF_NAMES[material]]), (THING_CONCEPTS + material,))


def name_thing(number: int, stream: Stream) -> Caption:
    """Return colour, pattern and shape of a thing as a phrase, in varying words."""
    c, p, s = world.thing(number)
    canonical = stream.integer(0, 1) == 0
    colour = c if canonical else stream.choice(world.COLOUR_WORDS[c])
    shape = s if canonical else stream.choice(world.SHAPES[s])
    adjectives, nouns = world.PATTERNS[p]
    form = stream.integer(0, 5)
    if p == "plain":
        text = f"plain {colour} {shape}" if form == 0 else f"{colour} {shape}"
    elif form == 0:
        text = f"{colour} {shape} with {stream.choice(nouns)}"
    elif form == 1:
        text = f"{stream.choice(adjectives)} {colour} {shape}"
    else:
        text = f"{colour} {adjectives[0] if canonical else stream.choice(adjectives)} {shape}"
    return Caption(text, (concept(c, p, s),))


def name_attributes(number: int, stream: Stream) -> Caption:
    """Return some attributes of a thing, such as "something red and striped" or "dotted box"."""
    c, p, s = world.thing(number)
    colour, shape = stream.choice(world.COLOUR_WORDS[c]), stream.choice(world.SHAPES[s])
    adjective = stream.choice(world.PATTERNS[p][0])
    form = stream.integer(0, 5)
    if form == 0:
        return Caption(f"something {colour}", (concept(c),))
    if form == 1:
        return Caption(f"something {adjective}", (concept(None, p),))
    if form == 2:
        return Caption(f"{adjective} {shape}", (concept(None, p, s),))
    if form == 3:
        return Caption(shape, (concept(None, None, s),))
    return Caption(f"something {colour} and {adjective}", (concept(c, p),))


def name(number: int, stream: Stream) -> Caption:
    """Return the full phrase of a material or thing."""
    return name_material(number, stream) if number < len(world.STUFF) else name_thing(number, stream)


def describe(fractions: np.ndarray, stream: Stream, least: float = 0.06, most: int = 3) -> Caption:
    """Return a caption of an image: one entity, several entities, or some attributes of one thing.

    Args:
        fractions: float64 (ENTITIES,), the fraction of the image that each entity covers.
        stream: The source of randomness.
        least: An entity is named only if it covers at least this fraction.
        most: Largest number of entities in the caption.
    """
    seen = [int(i) for i in np.flatnonzero(fractions >= least)] or [int(np.argmax(fractions))]
    seen.sort(key=lambda i: -fractions[i])
    form = stream.integer(0, 99)
    things = [i for i in seen if i >= len(world.STUFF)]
    if form < 12 and things:
        return name_attributes(stream.choice(things), stream)
    if form < 30 or len(seen) == 1:
        return name(stream.choice(seen[:2]), stream)
    return join([name(i, stream) for i in seen[:most]], stream)


def join(phrases: list[Caption], stream: Stream) -> Caption:
    """Join phrases, things before materials, as in "a red ring and a blue box on grass and sand"."""
    things = [p for p in phrases if p.concepts[0] < THING_CONCEPTS]
    materials = [p for p in phrases if p.concepts[0] >= THING_CONCEPTS]
    link = stream.choice((" and ", " and ", " next to ", " with "))
    text = link.join(p.text if i == 0 else f"a {p.text}" for i, p in enumerate(things))
    ground = " and ".join(p.text for p in materials)
    if text and ground:
        text += stream.choice((" on ", " and ", " in front of ")) + ground
    return Caption(text or ground, tuple(c for p in phrases for c in p.concepts))


def entity_fractions(entities: np.ndarray) -> np.ndarray:
    """Return the fraction of a map that each entity covers.

    Args:
        entities: uint8 (H, W), entity numbers.

    Returns:
        float64 (ENTITIES,), with the sum 1.
    """
    return np.bincount(entities.ravel(), minlength=ENTITIES) / entities.size
