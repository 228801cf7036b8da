"""Changed class names: bare names, synonyms, hypernyms, translations; lists of datasets/vocabularies/.

Two classes may have the same name; then the first one gets the pixels, because the first of equal queries wins.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ovbench.utils.errors import InputError, unknown
from ovbench.utils.files import read_text
from ovbench.utils.paths import shipped

BARE = "bare"  # the first name of each class alone


@functools.cache
def changed_lists() -> dict[str, frozenset[str]]:
    """Return the benchmarks that have a list, by the kind of change, such as "synonyms"."""
    found: dict[str, set[str]] = {}
    for path in shipped("datasets", "vocabularies").glob("*.txt"):
        benchmark, _, kind = path.stem.rpartition(".")
        found.setdefault(kind, set()).add(benchmark)
    return {kind: frozenset(names) for kind, names in found.items()}


def is_change(variant: str) -> bool:
    """Return whether a variant of class names is a change of this module, and no published list."""
    return variant == BARE or variant in changed_lists()


def changed_names(benchmark: str, classes: Sequence[str], kind: str) -> tuple[tuple[str, ...], ...]:
    """Return the changed names of a benchmark.

    Args:
        benchmark: Name of the dataset.
        classes: Its class names.
        kind: "bare" or a key of `changed_lists`.

    Raises:
        UsageError: If the benchmark has no such list.
        InputError: If the list has another number of classes.
    """
    if kind == BARE:
        return tuple((name.partition(",")[0].strip(),) for name in classes)
    if benchmark not in changed_lists()[kind]:
        known = [BARE, *(name for name, benchmarks in changed_lists().items() if benchmark in benchmarks)]
        raise unknown(f"change of the names of {benchmark}", kind, known, where="vocabulary")
    path = shipped("datasets", "vocabularies", f"{benchmark}.{kind}.txt")
    lines = [line for line in read_text(path, "class list").splitlines() if line and not line.startswith("#")]
    if len(lines) != len(classes):
        raise InputError(f"{len(lines)} classes instead of {len(classes)}", where=path.name)
    return tuple(tuple(line.split("; ")) for line in lines)
