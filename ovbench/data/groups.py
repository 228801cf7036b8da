"""Groups of benchmarks: a name such as "mess" stands for all cards of a folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ovbench.data.card import load_card
from ovbench.data.find import data_roots, find
from ovbench.data.shipped_cards import card_groups
from ovbench.utils.errors import InputError


class Expanded(NamedTuple):
    """Names of datasets without groups, and the members of groups that are not on this machine."""

    names: list[str]
    absent: dict[str, list[str]]


def all_members(names: Iterable[str]) -> list[str]:
    """Return names of datasets, with each group replaced by all its cards.

    Args:
        names: Names of datasets and groups, or paths of cards.
    """
    return list(dict.fromkeys(one for name in names for one in card_groups().get(name, (name,))))


def present_members(names: Sequence[str], data_root: str | Path | None = None) -> Expanded:
    """Return names of datasets, with each group replaced by those of its cards whose data is on this machine.

    Args:
        names: Names of datasets and groups, or paths of cards.
        data_root: The folder to search; by default the configured ones.

    Raises:
        InputError: If no card of a group has data.
    """
    found: list[str] = []
    absent: dict[str, list[str]] = {}
    for name in names:
        members = card_groups().get(name, (name,))
        if name in card_groups():
            here = [member for member in members if is_present(member, data_root)]
            if not here:
                raise InputError(
                    f"no benchmark of the group {name} is below the data root", where=", ".join(members),
                    fix=f"run: ovbench data verify {name}, which names what is missing",
                )  # fmt: skip
            absent[name] = [member for member in members if member not in here]
            members = tuple(here)
        found += members
    return Expanded(list(dict.fromkeys(found)), absent)


def is_present(name: str, data_root: str | Path | None = None) -> bool:
    """Return whether images and labels of a dataset are below the data root.

    Args:
        name: Name of the dataset.
        data_root: The folder to search; by default the configured ones.
    """
    card = load_card(name)
    if card.generator:
        return True
    try:
        return bool(find(card, data_roots(data_root)).paired)
    except InputError:
        return False
