"""Materials, colours, patterns and shapes of the `mini` world, their names, the classes, and what is held out.

An *entity* is what a pixel belongs to: a material (0..11), or a thing, which has a colour, a pattern and a shape
(12..203).
"""

from __future__ import annotations

# Material -> names; the first is the class name.
STUFF: dict[str, tuple[str, ...]] = {
    "sky": ("sky", "cloudy sky", "clouds"),
    "grass": ("grass", "lawn", "meadow"),
    "water": ("water", "sea", "lake"),
    "sand": ("sand", "beach", "desert"),
    "snow": ("snow", "snowfield", "fresh snow"),
    "gravel": ("gravel", "pebbles", "stones"),
    "road": ("road", "asphalt", "tarmac"),
    "brick wall": ("brick wall", "bricks", "brickwork"),
    "wood": ("wood", "wooden planks", "timber"),
    "tiles": ("tiles", "tiled floor", "tiling"),
    "soil": ("soil", "earth", "mud"),
    "hedge": ("hedge", "leaves", "foliage"),
}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "orange": (240, 130, 20),
    "yellow": (245, 215, 45),
    "green": (20, 165, 85),
    "blue": (35, 75, 205),
    "purple": (125, 50, 165),
    "pink": (245, 130, 180),
    "black": (30, 30, 34),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "amber"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "cobalt"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "black": ("black", "dark"),
}
# Pattern -> (adjectives, nouns for "with ..."). The plain pattern is named only sometimes.
PATTERNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "plain": (("plain",), ()),
    "striped": (("striped", "stripy"), ("stripes", "lines")),
    "dotted": (("dotted", "spotted"), ("dots", "spots")),
    "checkered": (("checkered", "chequered"), ("checks", "squares")),
}
SHAPES: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "sphere"),
    "box": ("box", "block"),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus sign"),
    "triangle": ("triangle", "wedge"),
    "diamond": ("diamond", "kite"),
}

# The things of the evaluation. No two have the same colour and pattern, so few patches distinguish them.
THINGS: tuple[tuple[str, str, str], ...] = (
    ("red", "plain", "ring"),
    ("yellow", "plain", "triangle"),
    ("green", "plain", "cross"),
    ("purple", "plain", "ball"),
    ("blue", "striped", "ball"),
    ("red", "striped", "box"),
    ("purple", "striped", "cross"),
    ("black", "striped", "diamond"),
    ("yellow", "dotted", "box"),
    ("orange", "dotted", "ball"),
    ("blue", "dotted", "triangle"),
    ("pink", "dotted", "cross"),
    ("green", "checkered", "box"),
    ("pink", "checkered", "ring"),
    ("orange", "checkered", "diamond"),
    ("red", "checkered", "ball"),
)

# Never drawn or named in the training world: pairs of colour and pattern (in any shape), and single things.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {("purple", "striped"), ("orange", "dotted"), ("green", "checkered")}
)
HELD_OUT_THINGS: frozenset[tuple[str, str, str]] = frozenset(
    {("blue", "striped", "ball"), ("pink", "checkered", "ring")}
)

STUFF_NAMES: tuple[str, ...] = tuple(STUFF)
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
PATTERN_NAMES: tuple[str, ...] = tuple(PATTERNS)
SHAPE_NAMES: tuple[str, ...] = tuple(SHAPES)
IGNORE = 255


def in_training(colour: str, pattern: str, shape: str) -> bool:
    """Return whether a thing may be drawn in the training world."""
    return (colour, pattern) not in HELD_OUT_PAIRS and (colour, pattern, shape) not in HELD_OUT_THINGS


def entity(colour: str, pattern: str, shape: str) -> int:
    """Return the entity number of a thing, 12..203."""
    c, p, s = COLOUR_NAMES.index(colour), PATTERN_NAMES.index(pattern), SHAPE_NAMES.index(shape)
    return len(STUFF) + (c * len(PATTERNS) + p) * len(SHAPES) + s


def thing(number: int) -> tuple[str, str, str]:
    """Return colour, pattern and shape of an entity number of 12 or above."""
    rest, s = divmod(number - len(STUFF), len(SHAPES))
    c, p = divmod(rest, len(PATTERNS))
    return COLOUR_NAMES[c], PATTERN_NAMES[p], SHAPE_NAMES[s]


def thing_names(colour: str, pattern: str, shape: str) -> tuple[str, ...]:
    """Return the class name of a thing and its synonyms.

    Example:
        >>> thing_names("blue", "striped", "ball")
        ('blue striped ball', 'striped blue sphere', 'blue ball with stripes')
    """
    first, second = SHAPES[shape][:2]
    if pattern == "plain":
        return f"{colour} {first}", f"{colour} {second}", f"plain {colour} {first}"
    adjectives, nouns = PATTERNS[pattern]
    adjective, noun = adjectives[0], nouns[0]
    return f"{colour} {adjective} {first}", f"{adjective} {colour} {second}", f"{colour} {first} with {noun}"


def classes() -> list[tuple[str, ...]]:
    """Return names and synonyms of the 28 classes in label order: materials (0..11), then things (12..27)."""
    return [*STUFF.values(), *(thing_names(*t) for t in THINGS)]


def held_out_classes() -> list[str]:
    """Return the names of the classes that the training world never shows."""
    return [thing_names(*t)[0] for t in THINGS if not in_training(*t)]


TRAINING_THINGS: tuple[int, ...] = tuple(
    entity(c, p, s) for c in COLOURS for p in PATTERNS for s in SHAPES if in_training(c, p, s)
)
VALIDATION_THINGS: tuple[int, ...] = tuple(entity(*t) for t in THINGS)
