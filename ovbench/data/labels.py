"""Map the values of label files to class indices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovbench.data.card import Card, Encoding, Layout
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_text

IGNORED = 65535  # not scored
NO_CLASS = 65534  # scored, matches no class
_INVALID = 65533


@dataclass(frozen=True)
class LabelMap:
    """A table from 16-bit values to class indices.

    Attributes:
        encoding: The encoding of the card.
        table: uint16 (65536,), class index, IGNORED or NO_CLASS.
    """

    encoding: Encoding
    table: np.ndarray

    def apply(self, raw: np.ndarray, *, where: str, card: Card) -> np.ndarray:
        """Map the values of a label file.

        Args:
            raw: uint8 or uint16 (H, W).
            where: Dataset and image id, for the message.
            card: The card of the dataset.

        Returns:
            uint16 (H, W), class index, IGNORED or NO_CLASS.

        Raises:
            InputError: If the encoding lacks a value.
        """
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
        """Return whether the encoding has each value.

        Args:
            values: Integers, any shape.

        Returns:
            bool, the same shape.
        """
        return self.table[values] != _INVALID

    def admitted(self) -> str:
        """Return the valid values as text."""
        values = np.flatnonzero(self.table != _INVALID)
        void = [int(v) for v in values if v in self.encoding.void]
        text = _runs([int(v) for v in values if v not in self.encoding.void])
        return text + (f" and not the ignore value {' or '.join(map(str, void))}" if void else "")


def _runs(values: list[int]) -> str:
    """Write ascending numbers as ranges: ``0..58, 255``."""
    starts = [v for i, v in enumerate(values) if i == 0 or values[i - 1] != v - 1]
    ends = [v for i, v in enumerate(values) if i == len(values) - 1 or values[i + 1] != v + 1]
    runs = [str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join(runs if len(runs) <= 4 else [*runs[:3], f"... {runs[-1]}"])


def label_map(encoding: Encoding, classes: int, rule: str = "correct") -> LabelMap:
    """Build the table of an encoding.

    Args:
        encoding: The encoding of a card.
        classes: Number of classes.
        rule: With "official", only the pixels that an evaluator with ignore value 255 ignores are ignored.

    Raises:
        InputError: If the encoding's file is wrong, or it ignores a value that is a class.
    """
    table = np.full(65536, _INVALID, np.uint16)
    if encoding.table is not None:
        for raw, value in read_table(Path(encoding.table), classes).items():
            table[raw] = IGNORED if value is None else value
    elif encoding.values:
        table[list(encoding.values)] = np.arange(classes)
    else:
        table[encoding.shift : encoding.shift + classes] = np.arange(classes)
    if encoding.ignores_others:
        table[table == _INVALID] = IGNORED
    for raw in encoding.void:
        if table[raw] < classes:
            text = f"the card ignores the value {raw}, but the table maps it to class {table[raw]}"
            raise InputError(text, where=str(encoding.table), fix="remove it from one of the two")
        table[raw] = NO_CLASS if rule == "official" and raw > 255 else IGNORED
    if rule == "official" and classes > 255:
        table[table == 255] = IGNORED
    table.setflags(write=False)
    return LabelMap(encoding, table)


def read_table(path: Path, classes: int | None = None) -> dict[int, int | None]:
    """Read a text file with two columns: value and class index, or "-" for ignored.

    Args:
        path: The file.
        classes: Number of classes; None accepts any index.

    Returns:
        Class index, or None for ignored, by value.

    Raises:
        InputError: If the file cannot be read, or a line is malformed or out of range.
    """
    found: dict[int, int | None] = {}
    for number, line in enumerate(map(str.strip, read_text(path, "label table").splitlines()), 1):
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


def value_counts(values: np.ndarray) -> dict[int, int]:
    """Count the pixels of each value (ten times faster than sorting).

    Args:
        values: uint8 or uint16, any shape.

    Returns:
        Number of pixels by value, in ascending order of the values.

    Example:
        >>> value_counts(np.array([[3, 0], [3, 3]], np.uint8))
        {0: 1, 3: 3}
    """
    counts = np.bincount(values.ravel())
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def choose_encoding(card: Card, layout: Layout, present: Sequence[Collection[int]]) -> Encoding:
    """Choose the first encoding of a layout that fits the files.

    Labels with and without the background value may have the same folder names, so their values decide. An
    encoding is excluded by a file with a value that it lacks, or if fewer than half of the files have its ``common``
    value. If none is left, the first one, which is the documented one, is chosen.

    Args:
        card: The card of the dataset.
        layout: Its layout.
        present: The values of each file of a sample.
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
