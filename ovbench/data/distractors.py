"""Distractors: queries that no label has; a pixel that gets one is wrong for its class."""

from __future__ import annotations

import re
from pathlib import Path

from ovbench.data.classes import Queries, plain_names, read_queries, refuse_shared
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import shipped

DRAWN = re.compile(r"(?P<name>[\w-]+)-(?P<count>\d+)")


def distractor_lists(benchmark: str) -> list[str]:
    """Return the names of the shipped lists for a benchmark, such as "near".

    Args:
        benchmark: Name of the dataset.
    """
    return sorted(path.stem.rpartition(".")[2] for path in _folder().glob(f"{benchmark}.*.txt"))


def read_distractors(spec: str, benchmark: str, classes: Queries) -> tuple[str, ...]:
    """Return the distractors that a setting names.

    Args:
        spec: ``LIST-N``, the first N names of a shipped list that are no query of the classes; or a text file with one
            name per line; "" for none.
        benchmark: Name of the dataset.
        classes: The queries of each class.

    Raises:
        UsageError: If there is no such list.
        InputError: If a list is too short, or a file names a query of a class.
    """
    if not spec:
        return ()
    if spec.endswith(".txt"):
        given = read_queries(Path(spec))
        refuse_shared(given, classes, spec)
        return given
    found = DRAWN.fullmatch(spec)
    path = _folder() / f"{benchmark}.{found['name']}.txt" if found else None
    if found is None or path is None or not path.is_file():
        known = [f"{name}-50" for name in distractor_lists(benchmark)]
        raise unknown(f"list of distractors for {benchmark}", spec, known or ["FILE.txt"], where="distractors")
    taken = plain_names(query for queries in classes for query in queries)
    free = [name for name in read_queries(path) if not plain_names([name]) & taken]
    count = int(found["count"])
    if not 0 < count <= len(free):
        raise InputError(f"{count} distractors asked for, the list has {len(free)}", where=path.name)
    return tuple(free[:count])


def _folder() -> Path:
    return shipped("datasets", "distractors")
