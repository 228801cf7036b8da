"""Write the descriptions of `mini`'s classes, in the words of its training world: configs/descriptions/mini.json."""

from __future__ import annotations

from ovbench.data.descriptions import DescriptionSet, write_set
from ovbench.data.mini import world
from ovbench.utils.paths import shipped

RULE = "every word for a material; every word for the colour, the pattern and the shape of a thing, in varying order"


def material(words: tuple[str, ...]) -> list[str]:
    a, b, c = words
    return [a, b, c, f"{a} and {b}", f"{b} and {c}", f"{c} and {a}"]


def thing(colour: str, pattern: str, shape: str) -> list[str]:
    adjectives, nouns = world.PATTERNS[pattern]
    sentences = []
    for c in world.COLOUR_WORDS[colour]:
        for s in world.SHAPES[shape]:
            sentences += [f"a {c} {a} {s}" for a in adjectives] + [f"a {a} {c} {s}" for a in adjectives]
            sentences += [f"a {c} {s} with {n}" for n in nouns] or [f"a {c} {s}"]
        sentences += [f"something {c} and {a}" for a in adjectives]
    return list(dict.fromkeys(sentences))


def main() -> None:
    described = {words[0]: material(words) for words in world.STUFF.values()}
    described |= {world.thing_names(*parts)[0]: thing(*parts) for parts in world.THINGS}
    made = DescriptionSet("mini", "scripts/describe_mini.py", RULE, described)
    write_set(shipped("configs", "descriptions", "mini.json"), made)


if __name__ == "__main__":
    main()
