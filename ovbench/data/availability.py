"""Report which datasets are on disk, prepared and verified."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovbench.data.card import Card, load_card
from ovbench.data.find import FoundFiles, data_roots, find, search_roots, unprepared
from ovbench.data.shipped_cards import ENTRY_POINTS, card_groups, group_of, known_cards
from ovbench.data.sources import source_facts
from ovbench.data.user_config import user_cards
from ovbench.utils.errors import InputError
from ovbench.utils.files import parse_json, write_json
from ovbench.utils.paths import cache_root
from ovbench.utils.registry import broken_names

ROW = (
    "name", "group", "title", "split", "classes", "background", "images", "state", "found_images", "layout", "root",
    "broken",
)  # fmt: skip


def dataset_rows(data_root: str | Path | None = None, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Describe datasets and the state of the user's copy.

    The states are "absent", "unprepared" (downloaded, `ovbench data prepare` is the next step), "incomplete",
    "present", "verified" (unchanged since `ovbench data verify` accepted it), "built in" (generated on first use) and
    "broken" (a card or plug-in that cannot be loaded; ``broken`` has the reason).

    Args:
        data_root: The folder to search; by default the configured ones.
        names: Names of datasets; None for all known ones.

    Returns:
        One row per dataset, with the keys of `ROW`.
    """
    roots, own = data_roots(data_root), user_cards()
    broken = broken_names(ENTRY_POINTS, load_card) | {name: why for name in own if (why := _why_broken(name))}
    return [
        dict.fromkeys(ROW) | {"name": name, "state": "broken", "broken": broken[name]}
        if name in broken
        else _row(load_card(name), roots)
        for name in (dict.fromkeys((*known_cards(), *own)) if names is None else names)
    ]


def _why_broken(name: str) -> str:
    """Return why a card of the user's config file cannot be read; "" if it can."""
    try:
        load_card(name)
    except InputError as error:
        return str(error)
    return ""


def group_rows(data_root: str | Path | None = None) -> list[dict[str, Any]]:
    """Describe every group of datasets; its state is the number of its datasets with data.

    Args:
        data_root: The folder to search; by default the configured ones.

    Returns:
        One row per group, with the keys of `ROW`.
    """
    roots, rows = data_roots(data_root), []
    for group, cards in card_groups().items():
        states = [_state(load_card(name), roots)["state"] for name in cards] if roots else []
        here = sum(state not in ("absent", "unprepared") for state in states)
        rows.append(dict.fromkeys(ROW) | {"name": f"{group} (group)", "state": f"{here} of {len(cards)} present"})
    return rows


def _row(card: Card, roots: list[Path]) -> dict[str, Any]:
    row = {
        "name": card.name,
        "group": group_of(card.name) if card.is_shipped else None,
        "title": card.title,
        "split": card.split,
        "classes": len(card.classes),
        "background": card.background is not None,
        "images": card.image_count,
        "state": "built in",
        "found_images": None,
        "layout": None,
        "root": None,
        "broken": None,
    }
    return row if card.generator else row | _state(card, roots)


def _state(card: Card, roots: list[Path]) -> dict[str, Any]:
    try:
        found = find(card, search_roots(card, roots))
    except InputError:
        raw = unprepared(card, (root / below for root in roots for below in card.roots))
        return {"state": "absent" if raw is None else "unprepared", "root": raw and str(raw)}
    complete = found.complete and found.paired >= card.image_count
    state = "incomplete" if not complete else "verified" if is_verified(card, found) else "present"
    return {"state": state, "found_images": found.paired, "layout": found.layout.name, "root": str(found.root)}


def remember_verified(card: Card, found: FoundFiles) -> None:
    """Write a note into the cache that this copy was verified, valid until one of its files changes.

    Args:
        card: The card of the dataset.
        found: Its files.

    Raises:
        InputError: If the cache cannot be written.
    """
    write_json(_note(card, found), {"root": str(found.root), "files": fingerprint(found)})


def is_verified(card: Card, found: FoundFiles) -> bool:
    """Return whether this copy was verified and has not changed since.

    Args:
        card: The card of the dataset.
        found: Its files.

    Returns:
        False also if the note cannot be read.
    """
    try:
        note = parse_json(_note(card, found).read_text(encoding="utf-8"))
        return note["files"] == fingerprint(found)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no note, or a malformed one: verify again


def fingerprint(found: FoundFiles) -> str:
    """Return a hash of path, size and time of change of every image and label.

    Args:
        found: The files.

    Returns:
        sha256, hexadecimal.
    """
    digest = hashlib.sha256()
    for item in found.items:
        for path in (item.image_path, item.label_path):
            facts = source_facts(path)
            digest.update(f"{path}\0{facts.size}\0{facts.mtime_ns}\n".encode())
    return digest.hexdigest()


def _note(card: Card, found: FoundFiles) -> Path:
    folder = hashlib.sha256(str(found.root.resolve()).encode()).hexdigest()[:16]
    return cache_root() / "verified" / f"{card.name}-{folder}.json"
