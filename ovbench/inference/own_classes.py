"""The user's own classes, and the settings for them."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from ovbench.config.load import Cell, resolve
from ovbench.data.card import read_classes_file
from ovbench.data.classes import Queries, refuse_odd_classes
from ovbench.utils.errors import InputError, UsageError

LIKE = "coco-stuff"  # the default settings: photographs of things and surroundings, without a background
NOTHING = "nothing of these"


def gather_classes(names: tuple[str, ...], file: Path | None) -> Queries:
    """Return the synonyms of each class, from a file and from single names.

    Args:
        names: Names of classes, with synonyms separated by ";".
        file: A file with one class per line, or None.

    Raises:
        UsageError: If no class is given, or a name is empty or ambiguous.
    """
    classes = list(read_classes_file(file)) if file else []
    for name in names:
        synonyms = tuple(part.strip() for part in name.split(";") if part.strip())
        if not synonyms:
            raise UsageError("an empty class name", where="--class", fix='give a word, as in -c "red ring"')
        if "," in name:
            several, one = " ".join(f"-c {shlex.quote(w.strip())}" for w in name.split(",")), name.replace(",", ";")
            raise UsageError(
                f'is "{name}" one class or several', where="--class",
                fix=f'for several give {several}, for synonyms -c "{one}"; names with commas go into --classes FILE',
            )  # fmt: skip
        classes.append(synonyms)
    if not classes:
        raise UsageError("no classes given", fix="name at least one with -c, or a list with --classes FILE")
    refuse_odd_classes(tuple(classes), "--class")
    _refuse_shared_synonyms(classes)
    return tuple(classes)


def _refuse_shared_synonyms(classes: list[tuple[str, ...]]) -> None:
    """Refuse a name of two classes: their scores would be equal, and the first class would get all pixels."""
    owner: dict[str, str] = {}
    for names in classes:
        for name in names:
            if (other := owner.setdefault(" ".join(name.split()).casefold(), names[0])) != names[0]:
                raise InputError(
                    f'"{name}" is a name of two classes, "{other}" and "{names[0]}"', where="--class",
                    fix="leave it out of one of them",
                )  # fmt: skip


def choose_cell(method: str, like: str, settings: dict[str, Any], weights: dict[str, str]) -> Cell:
    """Return the cell of a method for classes without a background, so that no probability threshold is used.

    Args:
        method: Name of the method.
        like: Name of the dataset whose settings are used.
        settings: Settings that override those of the dataset.
        weights: Backbones that override the configured ones.
    """
    cell = resolve(method, like, settings, weights)
    cell.refuse_evaluation_settings()
    if "prob_thd" in settings:
        return cell
    return dataclasses.replace(cell, protocol=dataclasses.replace(cell.protocol, prob_thd=0.0))
