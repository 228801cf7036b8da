"""Write the lists of datasets/vocabularies/ and datasets/distractors/: python scripts/make_vocabularies.py WORDNET

WORDNET is the folder of the database files of WordNet 3.0 (index.noun, data.noun), such as that of the Debian package
wordnet-base. Rules: a name is looked up as it is, then in the singular; its first noun sense counts.

synonyms    the first other word of the synset; without one, the name stays
hypernyms   the first word of the first hypernym in the order of the file; two classes may get the same name
near, far   names of ade847 and pc459 that are no name of the benchmark, in the order of a draw with seed 0: near if a
            path over hypernyms of at most 4 steps leads to a class, far if every path has at least 8 steps
"""

from __future__ import annotations

import random
import sys
from functools import cache
from pathlib import Path

from ovbench.data.card import load_card

ROOT = Path(__file__).resolve().parents[1] / "datasets"
BENCHMARKS = ("voc20", "voc21", "pc59", "pc60", "coco-object", "coco-stuff", "cityscapes", "ade150", "mini")
FIXED = {"background", "unknown", "other"}
JOINED = {  # names that WordNet writes otherwise
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
NEAR, FAR = 4, 8  # steps
Synset = tuple[tuple[str, ...], tuple[int, ...]]  # words, hypernyms


class WordNet:
    """The nouns of WordNet."""

    def __init__(self, folder: Path):
        self.synset, self.ancestors = cache(self._synset), cache(self._ancestors)
        self.data = (folder / "data.noun").read_bytes()
        lines = (folder / "index.noun").read_text().splitlines()
        self.first = {}
        for line in lines:
            if not line.startswith(" "):
                fields = line.split()
                self.first[fields[0]] = int(fields[-int(fields[2])])

    def sense(self, name: str) -> int | None:
        """Return the first sense of a name, or of its singular."""
        key = JOINED.get(name, name).lower().replace(" ", "_")
        forms = (key, key.removesuffix("s"), key.removesuffix("es"))
        return next((self.first[form] for form in forms if form in self.first), None)

    def _synset(self, offset: int) -> Synset:
        """Return the words and the hypernyms of a sense, in the order of the file."""
        fields = self.data[offset : self.data.index(b"\n", offset)].decode().split(" | ")[0].split()
        count = int(fields[3], 16)
        words = tuple(word.partition("(")[0].replace("_", " ").lower() for word in fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        above = (int(pointers[n + 1]) for n in range(0, len(pointers) - 3, 4) if pointers[n] in ("@", "@i"))
        return words, tuple(above)

    def _ancestors(self, offset: int) -> dict[int, int]:
        """Return the steps to every sense above, the sense itself included."""
        found, edge, steps = {offset: 0}, [offset], 0
        while edge:
            steps += 1
            edge = [above for one in edge for above in self.synset(one)[1] if above not in found]
            found |= dict.fromkeys(edge, steps)
        return found

    def steps(self, one: int, other: int) -> int:
        """Return the length of the shortest path over a common hypernym."""
        mine, theirs = self.ancestors(one), self.ancestors(other)
        return min((mine[above] + theirs[above] for above in mine.keys() & theirs.keys()), default=99)


def synonym(wordnet: WordNet, name: str) -> str:
    """Return the first other word of the first sense."""
    sense = wordnet.sense(name)
    words = wordnet.synset(sense)[0] if sense is not None and name not in FIXED else ()
    same = {name.lower(), name.lower().removesuffix("s"), JOINED.get(name, name)}
    return next((word for word in words if word not in same), name)


def hypernym(wordnet: WordNet, name: str) -> str:
    """Return the first word of the first hypernym of the first sense."""
    sense = wordnet.sense(name)
    above = wordnet.synset(sense)[1] if sense is not None and name not in FIXED else ()
    return wordnet.synset(above[0])[0][0] if above else name


def distractors(wordnet: WordNet, names: list[str]) -> tuple[list[str], list[str]]:
    """Return the near and the far names, in the order of the draw."""
    pool = {query[0] for card in ("ade847", "pc459") for query in own_names(card)}
    targets = [sense for name in names if name not in FIXED and (sense := wordnet.sense(name)) is not None]
    near, far = [], []
    for name in sorted(pool - {*names, *(JOINED.get(name, name) for name in names)} - FIXED):
        sense = wordnet.sense(name)
        if sense is None or sense in targets:
            continue
        steps = min(wordnet.steps(sense, target) for target in targets)
        if steps <= NEAR:
            near.append(name)
        elif steps >= FAR:
            far.append(name)
    for drawn in (near, far):
        random.Random(0).shuffle(drawn)
    return near, far


def own_names(benchmark: str) -> list[list[str]]:
    """Return the names of each class, synonyms of an entry split at commas."""
    return [[part.strip() for part in name.split(",")] for name in load_card(benchmark).classes]


def main() -> None:
    """Write all lists."""
    wordnet = WordNet(Path(sys.argv[1]))
    for benchmark in BENCHMARKS:
        names = [one[0] for one in own_names(benchmark)]
        for kind, rule in (("synonyms", synonym), ("hypernyms", hypernym)):
            made = [rule(wordnet, name) for name in names]
            changed = sum(a != b for a, b in zip(made, names, strict=True))
            head = f"# {kind} of WordNet 3.0, {changed} of {len(names)} changed; scripts/make_vocabularies.py"
            write(ROOT / "vocabularies" / f"{benchmark}.{kind}.txt", [head, *made])
        for kind, drawn in zip(("near", "far"), distractors(wordnet, names), strict=True):
            head = f"# names of ade847 and pc459, {kind} by WordNet 3.0, order of seed 0; scripts/make_vocabularies.py"
            write(ROOT / "distractors" / f"{benchmark}.{kind}.txt", [head, *drawn])
            print(benchmark, kind, len(drawn))


def write(path: Path, lines: list[str]) -> None:
    """Write a list."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
