"""From the values in a label file to class indices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovbench.data.card import Card, Encoding, Layout
from ovbench.utils.errors import InputError

IGNORED = 65535  # dropped from the score
NO_CLASS = 65534  # kept, matches no class
_INVALID = 65533


@dataclass(frozen=True)
class LabelMap:
    """Raw value -> class index, IGNORED or NO_CLASS, as one table over 16 bits."""

    encoding: Encoding
    table: np.ndarray

    def apply(self, raw: np.ndarray, *, where: str, card: Card) -> np.ndarray:
        """u16[h,w] from the raw values; InputError for a value that the encoding does not have."""
        label = self.table[raw]
        if (label == _INVALID).any():
            value = int(raw[label == _INVALID][0])
            raise InputError(
                f"label value {value} outside {self.admitted()}",
                where=where,
                fix=f"run: ovbench data verify {card.argument}",
            )
        return label

    def admits(self, values: np.ndarray) -> np.ndarray:
        """Whether each raw value has a meaning."""
        return self.table[values] != _INVALID

    def admitted(self) -> str:
        """The admitted values in words."""
        values = np.flatnonzero(self.table != _INVALID)
        void = [int(v) for v in values if v in self.encoding.void]
        text = _runs([int(v) for v in values if v not in self.encoding.void])
        return text + (f" and not the ignore value {' or '.join(map(str, void))}" if void else "")


def _runs(values: list[int]) -> str:
    """Ascending numbers as ranges: ``0..58, 255``."""
    starts = [v for i, v in enumerate(values) if i == 0 or values[i - 1] != v - 1]
    ends = [v for i, v in enumerate(values) if i == len(values) - 1 or values[i + 1] != v + 1]
    runs = [str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join(runs if len(runs) <= 4 else [*runs[:3], f"... {runs[-1]}"])


def label_map(encoding: Encoding, classes: int, rule: str = "correct") -> LabelMap:
    """The table of an encoding. ``rule`` "official" treats ignored pixels as the published evaluation code does: only
    what an evaluator with ignore value 255 would drop is dropped."""
    table = np.full(65536, _INVALID, np.uint16)
    if encoding.table is not None:
        for raw, value in read_table(Path(encoding.table), classes).items():
            table[raw] = IGNORED if value is None else value
    elif encoding.values:
        table[list(encoding.values)] = np.arange(classes)
    else:
        table[encoding.shift : encoding.shift + classes] = np.arange(classes)
    for raw in encoding.void:
        if table[raw] < classes:
            text = f"the value {raw} is ignored, but the table makes it class {table[raw]}"
            raise InputError(text, where=str(encoding.table), fix="take it out of one of the two")
        table[raw] = NO_CLASS if rule == "official" and raw > 255 else IGNORED
    if rule == "official" and classes > 255:
        table[table == 255] = IGNORED
    table.setflags(write=False)
    return LabelMap(encoding, table)


def read_table(path: Path, classes: int | None = None) -> dict[int, int | None]:
    """A two-column text file: raw value and class index, or "-" for ignored."""
    found: dict[int, int | None] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line or line.startswith("#"):
            continue
        try:
            raw, value = line.split()
            found[int(raw)] = None if value == "-" else int(value)
        except ValueError:
            raise InputError(f'expected "raw class", got "{line}"', where=f"{path}, line {number}") from None
        if classes is not None and not (0 <= int(raw) <= 65535 and (value == "-" or 0 <= int(value) < classes)):
            raise InputError(f'"{line}" is out of range', where=f"{path}, line {number}")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read the label table "{path}": {error}') from None


def value_counts(values: np.ndarray) -> dict[int, int]:
    """How many pixels hold each value, in ascending order; counted, as sorting a large label takes ten times longer.

    >>> value_counts(np.array([[3, 0], [3, 3]], np.uint8))
    {0: 1, 3: 3}
    """
    counts = np.bincount(values.ravel())
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def choose_encoding(card: Card, layout: Layout, present: Sequence[Collection[int]]) -> Encoding:
    """The layout's documented encoding, or another of its encodings where only that one fits the files.

    Two forms of the same label, with and without the background value, lie in folders of the same name. The values
    that are ``present`` in each file of a sample decide: one file with a value that an encoding does not have excludes
    it, and so does a ``common`` value that fewer than half of the files hold. With none left, the documented one stays.
    """
    encodings = [card.encoding(name) for name in layout.encodings]
    if len(encodings) == 1 or not present:
        return encodings[0]
    values = [np.fromiter(found, np.uint16) for found in present]
    fitting = [e for e in encodings if _fits(label_map(e, len(card.classes)), values)]
    return (fitting or encodings)[0]


def _fits(labels: LabelMap, values: list[np.ndarray]) -> bool:
    common = labels.encoding.common
    if common is not None and 2 * sum(common in present for present in values) < len(values):
        return False
    return all(labels.admits(present).all() for present in values)
