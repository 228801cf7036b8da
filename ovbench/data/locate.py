"""Where a benchmark's files lie: which of the card's layouts the user's folders hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ovbench.data.card import Card, Layout
from ovbench.errors import InputError, UsageError
from ovbench.tomlfile import read_toml, refuse_unknown_keys


class Item(NamedTuple):
    id: str
    image_path: Path
    label_path: Path


class Found(NamedTuple):
    """A layout that is there, complete or not. ``items`` follow the split file, or the sorted paths."""

    root: Path
    layout: Layout
    items: tuple[Item, ...]
    without_image: tuple[str, ...]
    without_label: tuple[str, ...]
    paired: int
    orphan_labels: tuple[str, ...] = ()  # labels without an image, where the image folder is the split


def data_roots(data_root: str | Path | None = None) -> list[Path]:
    """The folders to search: the argument, else ``$OVBENCH_DATA`` (several with the path separator), else the user's
    config file, else none. Raises UsageError for a folder that does not exist."""
    if data_root is not None:
        named, origin = [str(data_root)], "--data-root"
    elif chosen := os.environ.get("OVBENCH_DATA"):
        named, origin = [p for p in chosen.split(os.pathsep) if p], "OVBENCH_DATA"
    else:
        named, origin = _configured(), str(config_file())
    roots = [Path(name).expanduser() for name in named]
    for root in roots:
        if not root.is_dir():
            raise UsageError(f'the data root "{root}" is not a folder', where=origin, fix="check the path")
    return roots


def config_file() -> Path:
    """The user's config file, ``ovbench/config.toml`` in the user's config folder; it need not exist."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "ovbench" / "config.toml"


def _configured() -> list[str]:
    path = config_file()
    if not path.is_file():
        return []
    table = read_toml(path)
    refuse_unknown_keys(table, ["data_root"], str(path))
    value = table.get("data_root", [])
    return [value] if isinstance(value, str) else list(value)


def find(card: Card, roots: Iterable[Path]) -> Found:
    """The first complete layout, or the one with most pairs of image and label.

    Raises InputError saying where it looked where no layout has a single image or label.
    """
    best: Found | None = None
    tried = []
    for root in (base / below for base in roots for below in card.roots):
        tried.append(root)
        for layout in card.layouts if root.is_dir() else ():
            found = _look(root, layout)
            if found is None:
                continue
            if found.paired and not found.without_image and not found.without_label:
                return found
            if best is None or found.paired > best.paired:
                best = found
    if best is None or not best.paired:
        raise _nothing(card, tried)
    return best


def _look(root: Path, layout: Layout) -> Found | None:
    images, labels = _ids_under(root, layout.image), _ids_under(root, layout.label)
    if not images and not labels:
        return None
    if layout.ids == "images":
        ids = _by_path(images, layout.image)
    elif layout.ids == "labels":
        ids = _by_path(labels, layout.label)
    else:
        listed = read_split(root / layout.ids)
        if listed is None:
            return None
        ids = listed
    items = tuple(Item(i, path_of(i, root, layout.image), path_of(i, root, layout.label)) for i in ids)
    return Found(
        root,
        layout,
        items,
        without_image=tuple(i for i in ids if i not in images),
        without_label=tuple(i for i in ids if i not in labels),
        paired=sum(i in images and i in labels for i in ids),
        orphan_labels=tuple(_by_path(labels - images, layout.label)) if layout.ids == "images" else (),
    )


def path_of(image_id: str, root: Path, pattern: str) -> Path:
    """The file that a card's pattern names for an image."""
    return root / pattern.replace("{id}", image_id)


def read_split(path: Path) -> list[str] | None:
    """The ids of a split file, one per line; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read the split file "{path}": {error}') from None


def _by_path(ids: set[str], pattern: str) -> list[str]:
    suffix = pattern.split("{id}")[1]
    return sorted(ids, key=lambda i: i + suffix)


def _ids_under(root: Path, pattern: str) -> set[str]:
    before, suffix = pattern.split("{id}")
    folder, _, prefix = before.rpartition("/")
    return {
        name[len(prefix) : len(name) - len(suffix)]
        for name in _walk(root / folder)
        if name.startswith(prefix) and name.endswith(suffix)
    }


def _walk(folder: Path, below: str = "") -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f'cannot list "{folder}": {error.strerror}') from None
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{below}{entry.name}/")
        elif not entry.name.startswith("."):
            yield below + entry.name


def _nothing(card: Card, tried: list[Path]) -> InputError:
    if not tried:
        return InputError(
            f"no data root is known, so {card.name} cannot be found",
            fix=f'pass --data-root, set OVBENCH_DATA, or write data_root = "..." to {config_file()}',
        )
    for split in (root / layout.ids for root in tried for layout in card.layouts):
        if read_split(split) == []:
            return InputError("the split file is empty", where=str(split), fix=f"get it again from {card.source}")
    wanted = card.layouts[0]
    places = ", ".join(str(path) for path in tried)
    source = unprepared(card, tried)
    if source is not None:
        step = f"the download in {source} is not prepared yet; run: ovbench data prepare {card.name} --source {source}"
    elif card.prepare:
        step = f"run: ovbench data prepare {card.name} --source DIR, with the download ({card.source})"
    else:
        step = f"get it from {card.source}"
    return InputError(
        f"no images and labels of {card.name} found; expected {wanted.image} and {wanted.label}",
        where=f"looked in {places}",
        fix=step,
    )


def unprepared(card: Card, roots: Iterable[Path]) -> Path | None:
    """The folder that holds the raw download of a benchmark, where there is one."""
    return next((root for root in roots if card.raw and (root / card.raw).exists()), None)
