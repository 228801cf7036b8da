"""Find the cards that ship with the package: those of datasets/, and groups of cards in folders below it."""

from __future__ import annotations

import functools
from pathlib import Path

from ovbench.utils.paths import real_path, shipped
from ovbench.utils.registry import entry_points

ENTRY_POINTS = "ovbench.datasets"


@functools.cache
def card_groups() -> dict[str, tuple[str, ...]]:
    """Return the names of the cards of each group; a group is a folder of datasets/ with cards."""
    folders: dict[str, list[str]] = {}
    for path in sorted(shipped("datasets").glob("*/*.toml")):
        if path.parent.name != "classes":
            folders.setdefault(path.parent.name, []).append(path.stem)
    return {name: tuple(cards) for name, cards in folders.items()}


def grouped_cards() -> list[str]:
    """Return the names of all cards of groups."""
    return [name for cards in card_groups().values() for name in cards]


def group_of(name: str) -> str | None:
    """Return the group of a card; None for the benchmarks outside groups."""
    return next((group for group, cards in card_groups().items() if name in cards), None)


def shipped_card(name: str) -> Path | None:
    """Return the file of a shipped card.

    Args:
        name: Name of the dataset.
    """
    for folder in ("", *card_groups()):
        path = shipped("datasets", folder, f"{name}.toml")
        if path.is_file():
            return path
    return None


def is_shipped_card(path: Path) -> bool:
    """Return whether a file is a card that ships with the package."""
    return path.parent in _folders() or real_path(path).parent in _folders()


@functools.cache
def _folders() -> frozenset[Path]:
    return frozenset(shipped("datasets", folder).resolve() for folder in ("", *card_groups()))


def list_cards() -> list[str]:
    """Return the names of the shipped datasets outside groups, then of those from installed plug-ins."""
    own = sorted(path.stem for path in shipped("datasets").glob("*.toml"))
    return own + sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - set(own))


def known_cards() -> list[str]:
    """Return the names of all datasets, those of groups included."""
    return [*list_cards(), *grouped_cards()]
