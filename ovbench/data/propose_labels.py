"""Recognise the encoding of labels from their values or colours and the names of the classes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ovbench.data.classes import read_classes_file
from ovbench.data.decode import read_label_file
from ovbench.data.integrity import BROKEN
from ovbench.data.label_colours import Colour, hex_text
from ovbench.data.labels import value_counts
from ovbench.data.sources import read_source
from ovbench.utils.errors import InputError
from ovbench.utils.files import parse_json, read_text

SAMPLE = 200  # labels that are read
SHOWN = 12  # values or colours in a message
RARE = 0.02  # of the pixels may have colours that the table does not list
NAMES = ("classes", "class_names", "labels", "names", "categories", "id2label", "label_names", "class-names")
VOID_NAMES = frozenset(("void", "unlabeled", "unlabelled", "ignore", "ignored", "unannotated"))
BACKGROUND_NAMES = frozenset(("background", "_background_", "__background__", "bg"))


class LabelNames(NamedTuple):
    """The classes of a list: their queries in order, and their colours if the list is a colour table.

    ``void`` are the colours that are ignored, ``file`` is the list.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    void: tuple[Colour, ...]
    file: Path


class ProposedEncoding(NamedTuple):
    """The lines of a card that tell how labels are read, and what was recognised in one sentence."""

    lines: tuple[str, ...]
    note: str


def find_names(folder: Path) -> LabelNames | None:
    """Return the classes of a list in a folder, such as classes.txt, id2label.json or a table of colours."""
    texts = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".txt", ".csv", ".json", ".names")]
    for path in texts:
        found = read_colour_table(path)
        if found is not None:
            return found
    for path in texts:
        if path.stem.lower() in NAMES:
            return _plain_list(path)
    return None


def read_names(path: Path) -> LabelNames:
    """Read a class list or a table of colours.

    Raises:
        InputError: If it is neither.
    """
    return read_colour_table(path) or _plain_list(path)


def _plain_list(path: Path) -> LabelNames:
    return LabelNames(tuple("; ".join(queries) for queries in read_classes_file(path)), (), (), path)


def read_colour_table(path: Path) -> LabelNames | None:
    """Read a table with a name and a colour per line (``road 128 64 128``, ``128,64,128,road``, ``road #804080``).

    Also a JSON list of objects with a name and a colour. None if the file has another form.
    """
    rows = [_named_colour(row) for row in _rows(path)]
    found = [row for row in rows if row is not None]
    if not found or len(found) < len(rows) - 1:  # one line may be a heading
        return None
    void = tuple(colour for name, colour in found if name.casefold() in VOID_NAMES)
    kept = [(name, colour) for name, colour in found if colour not in void]
    return LabelNames(tuple(name for name, _ in kept), tuple(colour for _, colour in kept), void, path)


def _rows(path: Path) -> list[list[str]]:
    try:
        text = read_text(path, "list")
    except InputError:
        return []
    if path.suffix.lower() == ".json":
        try:
            content = parse_json(text)
        except ValueError:
            return []
        entries = content.get("classes", content.get("labels")) if isinstance(content, dict) else content
        return [_entry(one) for one in entries] if isinstance(entries, list) else []
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("# ", "//"))]
    if path.suffix.lower() == ".csv" or any("," in line for line in lines):
        cells = [re.split(r"[,;]", line) if ":" not in line else re.split(r"[,:]", line) for line in lines]
        return [[cell.strip() for cell in row] for row in cells] if ":" in text else list(csv.reader(lines))
    return [line.split() for line in lines]


def _entry(one: object) -> list[str]:
    if not isinstance(one, dict):
        return []
    name, colour = one.get("readable") or one.get("name") or one.get("title") or "", one.get("color", one.get("colour"))
    parts = [str(part) for part in colour] if isinstance(colour, list) else [str(colour)]
    return [*parts, str(name)]


def _named_colour(cells: Sequence[str]) -> tuple[str, Colour] | None:
    """Return name and colour of a row, None if it has another form."""
    cells = [cell.strip() for cell in cells if cell.strip()]
    for at, cell in enumerate(cells):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", cell):
            rest = [other for number, other in enumerate(cells) if number != at and not other.isdigit()]
            return (" ".join(rest), tuple(bytes.fromhex(cell[1:]))) if rest else None  # type: ignore[return-value]
    numbers = [at for at, cell in enumerate(cells) if cell.isdigit() and int(cell) < 256]
    for at in range(len(cells) - 2):
        if {at, at + 1, at + 2} <= set(numbers):
            rest = [c for number, c in enumerate(cells) if not at <= number < at + 3 and not c.isdigit()]
            colour = (int(cells[at]), int(cells[at + 1]), int(cells[at + 2]))
            return (" ".join(rest), colour) if rest else None
    return None


def propose_encoding(labels: Sequence[Path], names: LabelNames | None, how: str) -> ProposedEncoding:
    """Return how labels are read.

    Args:
        labels: The labels.
        names: The classes, None if no list was found.
        how: How the user can give the classes, for messages.

    Raises:
        InputError: If labels cannot be read, or their values or colours do not fit the names.
    """
    chosen = labels[:: max(1, len(labels) // SAMPLE)][:SAMPLE]
    try:
        values = _counted(chosen, lambda path: value_counts(read_label_file(path).values))
    except InputError as error:
        if "has colours" not in error.what:
            raise
        return _in_colours(_counted(chosen, _colour_counts), names, how)
    if names is not None and names.colours:
        names = names._replace(colours=())
    listed = ", ".join(map(str, sorted(values)[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
    if names is None:
        raise InputError(f"the labels have the values {listed}, but no list of class names was found", fix=how)
    return _of_values(sorted(values), len(names.names), listed, names)


def _counted(paths: Iterable[Path], count: Callable[[Path], dict]) -> Counter:
    total: Counter = Counter()
    for path in paths:
        total.update(count(path))
    return total


def _colour_counts(path: Path) -> dict[Colour, int]:
    try:
        with Image.open(io.BytesIO(read_source(path).data)) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    except BROKEN as error:
        raise InputError(f'cannot read the label "{path}": {error}') from None
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    return {(int(r), int(g), int(b)): int(count) for (r, g, b), count in zip(colours, counts, strict=True)}


def _in_colours(colours: Counter, names: LabelNames | None, how: str) -> ProposedEncoding:
    most = ", ".join(hex_text(colour) for colour, _ in colours.most_common(SHOWN))
    if names is None or not names.colours:
        raise InputError(
            f"the labels are pictures in {len(colours)} colours, most often {most}; which class has which colour?",
            fix=f'{how}, with a colour in each line: "road #804080" or "road 128 64 128"',
        )
    known = {*names.colours, *names.void}
    other = sum(count for colour, count in colours.items() if colour not in known) / max(1, colours.total())
    if other > RARE:
        first = next(hex_text(colour) for colour, _ in colours.most_common() if colour not in known)
        what = f"{other:.1%} of the pixels have colours that {names.file.name} does not list, first {first}"
        raise InputError(what, where=str(names.file), fix="add them to the list; those named void are ignored")
    lines = ["[encoding.colour]", f"colours = {_list(names.colours)}"]
    if names.void:
        lines.append(f"void_colours = {_list(names.void)}")
    note = f"labels are pictures in colours, which {names.file.name} lists"
    if other:
        lines.append('else = "ignore"' + f"    # {other:.2%} of the pixels have colours that are not listed")
        note += f"; {other:.2%} of the pixels have other colours and are ignored"
    return ProposedEncoding(tuple(lines), note)


def _list(colours: Iterable[Colour]) -> str:
    return "[" + ", ".join(f'"{hex_text(colour)}"' for colour in colours) + "]"


def _of_values(values: list[int], count: int, listed: str, names: LabelNames) -> ProposedEncoding:
    """Return the simplest encoding that has all values: indices, numbered from 1, or a value for each class."""
    usual = 255 if count <= 255 else 65535
    inside = [value for value in values if value != usual]
    if not inside or inside[-1] < count:
        ignored = f", {usual} is ignored" if usual in values else ""
        if count == 2 and values == [0, 255]:
            return ProposedEncoding(("[encoding.mask]", "values = [0, 255]"), "labels are masks of 0 and 255")
        first = json.dumps(names.names[0].split(";")[0].strip(), ensure_ascii=False)
        note = f"label values are class indices, 0 is {first}{ignored}"
        if 0 in inside and not ignored and inside[-1] < count - 1:  # as well values from 1, of which the last is rare
            change = "add [encoding.index] with shift = 1 and void = [0]"
            note += f"; check this: if 0 is no class and 1 is {first}, {change}"
        return ProposedEncoding((), note)
    if inside[-1] == count:
        left_out = [0, usual] if usual in values else [0]
        note = f"label values are numbered from 1; {' and '.join(map(str, left_out))} are ignored"
        return ProposedEncoding(("[encoding.index]", "shift = 1", f"void = {left_out}"), note)
    if len(inside) == count:
        void = f"\nvoid = [{usual}]" if usual in values else ""
        note = f"each label value is a class in ascending order: {listed}"
        return ProposedEncoding(("[encoding.values]", f"values = {inside}{void}"), note)
    raise InputError(
        f"the labels have the values {listed}, which do not fit {count} class names", where=str(names.file),
        fix=f"list one name for each value in ascending order ({len(inside)} without {usual}), or write the card by "
        "hand, see docs/datasets.md",
    )  # fmt: skip
