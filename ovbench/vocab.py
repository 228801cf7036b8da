"""Class lists: one line per class in label order, its queries (synonyms) separated by "; "."""

from __future__ import annotations

import functools
from pathlib import Path

from ovbench.errors import InputError, unknown
from ovbench.tomlfile import read_toml

CANONICAL = "canonical"
SEPARATOR = "; "
HOW = 'write one class per line, synonyms after semicolons: "dog; puppy"'
Queries = tuple[tuple[str, ...], ...]


def read_classes_file(path: str | Path) -> Queries:
    """The queries of each class from a user's list; outer blanks and empty lines are dropped.

    A comma belongs to its query: only a semicolon separates synonyms. Raises InputError for a missing or empty file, or
    one that is not UTF-8.
    """
    lines = (line.split(";") for line in _text(Path(path)).splitlines() if line.strip())
    classes = tuple(tuple(q.strip() for q in queries if q.strip()) for queries in lines)
    for number, queries in enumerate(classes, 1):
        if not queries:
            raise InputError(f"class {number} has no name", where=str(path), fix=HOW)
    if not classes:
        raise InputError("no class in the list", where=str(path), fix=HOW)
    return classes


def read_published_list(path: Path) -> Queries:
    """The queries of each class, word for word, outer blanks included; an empty line is a class without a query."""
    lines = _text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    return tuple(tuple(line.split(SEPARATOR)) if line else () for line in lines)


def published_list(classes_file: Path, benchmark: str, family: str) -> Path | None:
    """File of the list that a family of methods uses on a benchmark; None where the family published none for it.

    Raises UsageError when no benchmark knows the family.
    """
    if family == CANONICAL:
        return classes_file
    shared = _shared_lists(classes_file.parent)
    families = _families(classes_file.parent)
    if family not in families:
        raise unknown("name variant", family, [*families, CANONICAL], where=benchmark)
    family = shared.get(benchmark, {}).get(family, family)
    own = classes_file.with_name(f"{classes_file.stem}.{family}.txt")
    return own if own.is_file() else None


@functools.cache
def _shared_lists(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "families.toml"
    return read_toml(path) if path.is_file() else {}


@functools.cache
def _families(folder: Path) -> frozenset[str]:
    """Every family that has a list of its own or shares one, over the benchmarks of this folder and of the package."""
    from ovbench.resources import shipped

    named = set()
    for place in {folder, shipped("datasets", "classes")}:
        named |= {family for lists in _shared_lists(place).values() for family in lists}
        named |= {path.name.split(".")[1] for path in place.glob("*.*.txt")}
    return frozenset(named)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f'no class list "{path}"', fix="check the path") from None
    except OSError as error:
        raise InputError(f'cannot read the class list "{path}": {error.strerror}') from None
    except UnicodeDecodeError:
        raise InputError(f'the class list "{path}" is not UTF-8 text', fix="save it as UTF-8") from None
