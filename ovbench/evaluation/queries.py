"""The queries of a cell: those of its classes, and distractors, which no label has."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from ovbench.config.load import Cell, file_settings
from ovbench.data.card import Card, vocabulary
from ovbench.data.classes import ClassList, Queries, published_list, read_class_list, refuse_other_order, refuse_shared
from ovbench.data.distractors import read_distractors
from ovbench.data.vocabularies import is_change
from ovbench.utils.errors import UsageError


class CellQueries(NamedTuple):
    """The queries of a cell.

    Attributes:
        classes: The queries of each class.
        distractors: Queries that no label has.
        given: Name and hash of the user's class list, "" for a list of the dataset.
    """

    classes: Queries
    distractors: tuple[str, ...] = ()
    given: str = ""

    @property
    def all(self) -> Queries:
        """Return the queries of each class, then each distractor as a class beyond the last."""
        return (*self.classes, *((name,) for name in self.distractors))


def cell_queries(cell: Cell, card: Card, classes_file: Path | None = None) -> CellQueries:
    """Return the queries of a cell.

    Args:
        cell: The settings.
        card: The card of its dataset.
        classes_file: The user's class list, or None.

    Raises:
        UsageError: If a list is not known, or the user's has another number of classes.
        InputError: If a list cannot be read or has the classes in another order.
    """
    if classes_file is None:
        _refuse_missing_list(cell, card)
        found, given = ClassList(vocabulary(card, cell.protocol.vocabulary or None), card.distractors), ""
        refuse_shared(found.distractors, found.classes, f"{card.name}, {card.classes_file.name}")
    else:
        found = _users_list(classes_file, card)
        digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
        given = f"{classes_file.name} ({digest[:8]})"
    more = read_distractors(cell.protocol.distractors, cell.dataset, found.classes)
    return CellQueries(found.classes, tuple(dict.fromkeys((*found.distractors, *more))), given)


def _refuse_missing_list(cell: Cell, card: Card) -> None:
    """Refuse a family without a list for the dataset; only the method's own family may use the card's names instead."""
    family = cell.protocol.vocabulary
    if not family or is_change(family) or published_list(card.classes_file, card.name, family) is not None:
        return
    if family != file_settings(cell.as_dict())["protocol"]["vocabulary"]:
        raise UsageError(
            f'there is no list "{family}" of the names of {card.name}', where="vocabulary",
            fix="leave it out for the names of the card, or give --classes FILE",
        )  # fmt: skip


def _users_list(path: Path, card: Card) -> ClassList:
    found, wanted = read_class_list(path), len(card.classes)
    if len(found.classes) != wanted:
        raise UsageError(
            f"{len(found.classes)} classes given for the {wanted} of {card.name}", where=str(path),
            fix="write one line per class, in label order",
        )  # fmt: skip
    refuse_other_order(found.classes, tuple((name,) for name in card.classes), str(path))
    return found
