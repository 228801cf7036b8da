"""Read class lists: one line per class in label order, its queries (synonyms) separated by "; ".

After a line ``[distractors]``, each line is a query that no label has.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.utils.errors import InputError, unknown
from ovbench.utils.files import parse_json, read_text
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import validate

CANONICAL = "canonical"
SEPARATOR = "; "
HOW = 'write one class per line, synonyms after semicolons: "dog; puppy"'
DISTRACTORS = "[distractors]"  # the line after which a list has queries without a class
MOST_CLASSES = 65533  # labels have 16 bits, and three values have other meanings
NUMBERED = (  # "0 wall", "0: wall", "0,wall"; "wall,0"; "wall 0", which may also be a name ("lane 0", "lane 1")
    (re.compile(r"(?P<number>\d{1,6})\s*[\s:.,;)]\s*(?P<name>.*\D.*)"), True),
    (re.compile(r"(?P<name>.*\D.*?)\s*[\t:,;]\s*(?P<number>\d{1,6})"), True),
    (re.compile(r"(?P<name>.*\D.*?)\s+(?P<number>\d{1,6})"), False),
    (re.compile(r"\(?(?P<number>\d{1,6})\s*[-=|)]\s*(?P<name>\D.*)"), False),
    (re.compile(r"(?P<name>.*\D)\s*[-=|]\s*(?P<number>\d{1,6})"), False),
)
HEADINGS = (  # of the columns of a table, so that a list of one column may begin with one
    "id", "ids", "idx", "index", "number", "name", "names", "class", "classes", "class_name", "classname", "class_id",
    "label", "labels", "label_id", "category", "categories", "trainid", "train_id",
)  # fmt: skip
INDEX_KEYS = ("id", "index", "trainId", "train_id")  # of the entries of a JSON list
JSON_KEYS = ("id2label", "label2id", "classes", "names", "categories", "labels")  # of the object with the list
Queries = tuple[tuple[str, ...], ...]


class ClassList(NamedTuple):
    """The queries of each class, and the queries that no label has."""

    classes: Queries
    distractors: tuple[str, ...] = ()


def read_classes_file(path: str | Path) -> Queries:
    """Read the queries of each class from a user's list, which has no distractors; see `read_class_list`.

    Args:
        path: The file.

    Returns:
        The queries of each class.

    Raises:
        InputError: As in `read_class_list`, and for distractors.
    """
    found = read_class_list(path)
    if found.distractors:
        raise InputError("distractors have a meaning only in an evaluation", where=str(path), fix="remove them")
    return found.classes


def read_class_list(path: str | Path) -> ClassList:
    """Read the queries of each class, and queries without a class, from a user's list.

    One class per line, synonyms after semicolons; a comma is part of its query. Empty lines and lines that begin with
    ``#`` are skipped. After a line ``[distractors]``, each line is a query that no label has. Also accepted: lines
    numbered in order from 0 or 1 (``0 wall``, ``1: wall``, ``wall,0``), a JSON list of names, and a JSON object from
    index to name or from name to index (``id2label``, ``label2id``). JSON entries with an ``id`` are put in its order.

    Args:
        path: The file.

    Returns:
        The queries of each class, and the distractors.

    Raises:
        InputError: If the file is missing, empty, not UTF-8 or has another form, if two classes have the same name, or
            if there are more than `MOST_CLASSES`, or a distractor is a query of a class.
    """
    text, where = read_text(Path(path), "class list"), str(path)
    if text.lstrip()[:1] in ("[", "{") and not text.lstrip().startswith(DISTRACTORS):
        classes, after = _from_json(text, where), ""
    else:
        lines = text.splitlines()
        cut = next((number for number, line in enumerate(lines) if line.strip() == DISTRACTORS), len(lines))
        classes, after = _from_lines("\n".join(lines[:cut]), where), "\n".join(lines[cut + 1 :])
    if not classes:
        raise InputError("no class in the list", where=where, fix=HOW)
    distractors = _only_names(after, where)
    refuse_odd_classes(classes, where)
    refuse_shared(distractors, classes, where)
    return ClassList(classes, distractors)


def read_queries(path: Path) -> tuple[str, ...]:
    """Read queries, one per line; empty lines and lines that begin with ``#`` are skipped.

    Args:
        path: The file.

    Raises:
        InputError: If the file cannot be read or is empty.
    """
    names = _only_names(read_text(path, "list of queries"), str(path))
    if not names:
        raise InputError("no query in the list", where=str(path))
    return names


def _only_names(text: str, where: str) -> tuple[str, ...]:
    lines = (line.strip() for line in text.splitlines())
    names = tuple(line for line in lines if line and not line.startswith("#"))
    for name in names:
        _refuse_foreign(name, where)
    return tuple(dict.fromkeys(names))


def refuse_odd_classes(classes: Queries, where: str) -> None:
    """Refuse too many classes, and two classes with the same name, which no model can distinguish.

    Args:
        classes: The queries of each class.
        where: The file, for the message.

    Raises:
        InputError: With the name or the number.
    """
    if len(classes) > MOST_CLASSES:
        text = f"{len(classes)} classes; labels have 16 bits, of which {MOST_CLASSES} values can be classes"
        raise InputError(text, where=where, fix=f"give at most {MOST_CLASSES}")
    first: dict[str, int] = {}
    for number, queries in enumerate(classes):
        name = " ".join(queries[0].split()).casefold() if queries else ""
        if first.setdefault(name, number) != number and name:
            raise InputError(
                f'two classes have the same name: "{queries[0]}" is number {first[name]} and number {number} (from 0)',
                where=where,
                fix="give each class a different name",
            )


def refuse_shared(distractors: Iterable[str], classes: Queries, where: str) -> None:
    """Refuse a distractor that is a query of a class, because a pixel that gets it would be right and wrong.

    Args:
        distractors: The distractors.
        classes: The queries of each class.
        where: File of the distractors, for the message.

    Raises:
        InputError: With the name and its class.
    """
    given = plain_names(distractors)
    for number, queries in enumerate(classes):
        if found := given & plain_names(queries):
            raise InputError(
                f'the distractor "{min(found)}" is a query of class {number}, "{queries[0]}"', where=where,
                fix="remove it from the distractors",
            )  # fmt: skip


def plain_names(queries: Iterable[str]) -> set[str]:
    """Return queries without differences of case and blanks.

    Args:
        queries: The queries.
    """
    return {" ".join(query.split()).casefold() for query in queries}


def refuse_other_order(given: Queries, own: Queries, where: str) -> None:
    """Refuse a list with the class names of a dataset in another order than its labels.

    Args:
        given: The user's list.
        own: The list of the dataset.
        where: The file, for the message.

    Raises:
        InputError: With the first class that differs.
    """
    names, wanted = (
        [" ".join(queries[0].split()).casefold() if queries else "" for queries in q] for q in (given, own)
    )
    if names != wanted and sorted(names) == sorted(wanted):
        at = next(i for i, (a, b) in enumerate(zip(names, wanted, strict=True)) if a != b)
        raise InputError(
            f"these are the names of the benchmark in another order: class {at} (from 0) of its labels is "
            f'"{own[at][0]}", of the list "{given[at][0]}"',
            where=where,
            fix="write the names in the order of the labels",
        )


def _from_lines(text: str, where: str) -> Queries:
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    _refuse_heading(lines, where)
    lines = _without_numbers(lines, where)
    for number, line in lines:
        _refuse_foreign(line, f"{where}, line {number}")
    classes: list[tuple[str, ...]] = []
    for number, line in lines:
        queries = tuple(q.strip() for q in line.split(";") if q.strip())
        if not queries:
            raise InputError(f"class {len(classes) + 1} has no name", where=f"{where}, line {number}", fix=HOW)
        classes.append(queries)
    return tuple(classes)


def _refuse_heading(lines: list[tuple[int, str]], where: str) -> None:
    """Refuse a first line with the headings of columns; as a class it would shift all others by one."""
    number, line = lines[0] if len(lines) > 1 else (0, "")
    columns = [column.strip().casefold() for column in re.split(r"[\t,; ]", line)]
    if all(column in HEADINGS for column in columns):
        raise InputError(
            f'"{line}" looks like the heading of a table, not like a class', where=f"{where}, line {number}",
            fix="remove the line; if it is a class, write the list as JSON",
        )  # fmt: skip


def _without_numbers(lines: list[tuple[int, str]], where: str) -> list[tuple[int, str]]:
    """Remove the numbers of the lines if each line has one, first or last, and they count from 0 or 1."""
    for form, strict in NUMBERED:
        found = [match for _, line in lines if (match := form.fullmatch(line))]
        if len(lines) < 2 or len(found) < len(lines):
            continue
        numbers, names = ([match[group].strip() for match in found] for group in ("number", "name"))
        start = int(numbers[0])
        wrong = [i for i, n in enumerate(numbers) if start not in (0, 1) or int(n) != start + i]
        if not wrong and len(set(names)) == len(names):
            return [(number, name) for (number, _), name in zip(lines, names, strict=True)]
        if strict:
            number, line = lines[wrong[0] if wrong else 0]
            text = f'the lines have numbers that do not count from 0 or 1: "{line}"'
            raise InputError(text, where=f"{where}, line {number}", fix=HOW)
    return lines


def _refuse_foreign(line: str, where: str) -> None:
    """Refuse a line that comes from a table or another format and is not a name."""
    columns = re.split(r"[\t,]", line)
    if (
        "\t" in line
        or line[0] in "\"'<{[}]"
        or line.startswith(("- ", "* ", "//"))
        or " #" in line
        or line == "__ignore__"  # labelme's line before the first class
        or re.search(r"(\s\d{1,3}){3}$", line)  # a colour
        or (";" in line and any(query.strip().isdigit() for query in line.split(";")))
        or line.endswith((":", ",", "{", "["))
        or (len(columns) > 1 and any(re.fullmatch(r"\s*-?[\d.]+\s*", column) for column in columns))
        or any(ord(sign) < 32 or ord(sign) == 127 for sign in line)
    ):
        raise InputError(
            f"{line!r} is not a class name; it looks like a line of a table or of another format", where=where, fix=HOW
        )


def _from_json(text: str, where: str) -> Queries:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise InputError(f"the class list begins like JSON but is malformed: {error}", where=where, fix=HOW) from None
    if isinstance(data, dict):
        data = next((data[key] for key in JSON_KEYS if isinstance(data.get(key), (dict, list))), data)
        data = _in_order(data) if isinstance(data, dict) else data
    if isinstance(data, list):
        data = _by_index(data, where)
        classes = [_queries(entry) for entry in data]
        if all(classes):
            return tuple(classes)
    raise InputError("the JSON is neither a list of names nor an object from index to name", where=where, fix=HOW)


def _by_index(entries: list[Any], where: str) -> list[Any]:
    """Return the entries of a JSON list in the order of their indices, if they have some.

    Raises:
        InputError: If the indices do not count from 0 or 1, or two kinds of them give two orders.
    """
    found = []
    for key in INDEX_KEYS:
        given: list[Any] = [entry.get(key) for entry in entries if isinstance(entry, dict) and key in entry]
        if not given:
            continue
        whole = len(given) == len(entries) and all(type(one) is int for one in given)
        if not whole or sorted(given) not in (list(range(len(given))), list(range(1, len(given) + 1))):
            raise InputError(f'the "{key}" of the entries do not count from 0 or 1', where=where, fix=HOW)
        found.append([entry for _, entry in sorted(zip(given, entries, strict=True), key=lambda pair: pair[0])])
    if any(order != found[0] for order in found):
        raise InputError("the entries have two indices with two orders", where=where, fix=HOW)
    return found[0] if found else entries


def _in_order(table: dict[str, object]) -> list[object] | None:
    """Return the names of an object from index to name, or from name to index; None unless the indices are 0..n-1."""
    inverted = all(isinstance(value, int) and not isinstance(value, bool) for value in table.values())
    named = {str(value): name for name, value in table.items()} if inverted else table
    return [named[str(i)] for i in range(len(table))] if set(named) == set(map(str, range(len(table)))) else None


def _queries(entry: object) -> tuple[str, ...]:
    """Return the queries of an entry: a name, a list of names, or an object with a name; empty for anything else."""
    if isinstance(entry, dict):
        entry = entry.get("name")
    queries = entry.split(";") if isinstance(entry, str) else entry if isinstance(entry, list) else []
    texts = [query.strip() for query in queries if isinstance(query, str)]
    return tuple(texts) if texts and len(texts) == len(queries) and all(texts) else ()


def read_published_list(path: Path) -> Queries:
    """Read a published list exactly, with leading and trailing spaces.

    Args:
        path: The file.

    Returns:
        The queries of each class; an empty line is a class without a query.

    Raises:
        InputError: If the file cannot be read.
    """
    lines = read_text(path, "class list").split("\n")
    if lines[-1] == "":
        lines.pop()
    return tuple(tuple(line.split(SEPARATOR)) if line else () for line in lines)


def published_list(classes_file: Path, benchmark: str, family: str) -> Path | None:
    """Find the class list that a family of methods uses on a dataset.

    Args:
        classes_file: The dataset's own list.
        benchmark: Name of the dataset.
        family: The family of methods.

    Returns:
        The file, or None if the family published no list for the dataset.

    Raises:
        UsageError: If no dataset has a list of the family.
    """
    if family == CANONICAL:
        return classes_file
    same = _same_lists(classes_file.parent)
    families = _families(classes_file.parent)
    if family not in families:
        raise unknown("name variant", family, [*families, CANONICAL], where=benchmark)
    family = same.get(benchmark, {}).get(family, family)
    own = classes_file.with_name(f"{classes_file.stem}.{family}.txt")
    return own if own.is_file() else None


@functools.cache
def _same_lists(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "families.toml"
    return validate(dict[str, dict[str, str]], read_toml(path), str(path)) if path.is_file() else {}


@functools.cache
def _families(folder: Path) -> frozenset[str]:
    """Return every family with a list in this folder or in the package."""
    from ovbench.utils.paths import shipped

    named = set()
    for lists_folder in {folder, shipped("datasets", "classes")}:
        named |= {family for lists in _same_lists(lists_folder).values() for family in lists}
        named |= {path.name.split(".")[1] for path in lists_folder.glob("*.*.txt")}
    return frozenset(named)
