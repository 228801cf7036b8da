"""Find the files of a dataset: the layout of its card that the user's folders have."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import NamedTuple

from ovbench.data.card import Card, Layout
from ovbench.data.find_listed import listed_files
from ovbench.data.remote_path import RemotePath, forget_listings
from ovbench.data.sources import exists, is_folder, read_source, walk
from ovbench.data.user_config import config_file, configured_roots
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import reading
from ovbench.utils.paths import URL

SUFFIXES = ((".jpg", ".jpeg", ".jpe", ".jfif"), (".png",), (".tif", ".tiff"), (".bmp",), (".webp",), (".gif",))


class Item(NamedTuple):
    """The files of one image."""

    id: str
    image_path: Path
    label_path: Path


class FoundFiles(NamedTuple):
    """The files of a layout, complete or not.

    Attributes:
        root: The folder of the dataset.
        layout: The layout.
        items: In the order of the split file, otherwise sorted by path.
        without_image: Ids whose image is missing.
        without_label: Ids whose label is missing.
        paired: Number of ids with image and label.
        orphan_labels: Ids of labels without an image, if the two folders must agree.
        twice: Ids that the split file lists more than once.
        others: Image files beside the images that do not match the layout's pattern.
        trouble: Why the split file cannot be read; then there are no items.
    """

    root: Path
    layout: Layout
    items: tuple[Item, ...]
    without_image: tuple[str, ...]
    without_label: tuple[str, ...]
    paired: int
    orphan_labels: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()
    trouble: InputError | None = None

    @property
    def complete(self) -> bool:
        """Whether there are images, and every image has a label and every label an image."""
        return bool(self.paired) and not (self.without_image or self.without_label or self.orphan_labels)


def data_roots(data_root: str | Path | None = None) -> list[Path]:
    """Return the folders to search for datasets; those at URLs are listed again.

    Args:
        data_root: The folder or URL; by default ``$OVBENCH_DATA`` (several with the path separator, or one URL),
            otherwise the folders of the user's config file.

    Returns:
        The folders; none if nothing is configured.

    Raises:
        UsageError: If a folder does not exist.
    """
    if data_root is not None:
        named, origin = [str(data_root)], "--data-root"
    elif chosen := os.environ.get("OVBENCH_DATA"):
        named = [chosen] if URL.match(chosen) else [name for name in chosen.split(os.pathsep) if name]
        origin = "OVBENCH_DATA"
    else:
        named, origin = configured_roots(), str(config_file())
    forget_listings()
    roots = [root_at(name) for name in named]
    for root in roots:
        if not is_folder(root):
            if isinstance(root, RemotePath):
                fix = "check the bucket and the path"
                raise UsageError(f'no files at the data root "{root}"', where=origin, fix=fix)
            raise UsageError(f'the data root "{root}" is not a folder or archive', where=origin, fix="check the path")
    return roots


def root_at(name: str, base: Path = Path()) -> Path:
    """Return a folder below another, or at a URL.

    Raises:
        UsageError: If fsspec does not know the URL.
        InputError: If the library for the URL is not installed.
    """
    if not URL.match(name):
        return base / Path(name).expanduser()
    scheme, _, rest = name.partition(":")
    if scheme in ("file", "local"):
        return Path("/" + rest.lstrip("/"))
    root = RemotePath(name)
    root.fs  # noqa: B018  opens the file system
    return root  # type: ignore[return-value]  # it has those methods of Path that read


def search_roots(card: Card, roots: list[Path]) -> list[Path]:
    """Return the folders to search if none is named: that of a user's card, then the data roots."""
    return roots if card.is_shipped else [card.path.parent, *roots]


def find(card: Card, roots: Iterable[Path]) -> FoundFiles:
    """Find the first complete layout, otherwise the one with most pairs of image and label.

    Args:
        card: The card of the dataset.
        roots: The data roots.

    Raises:
        InputError: If no layout has a pair, with the folders that were searched.
    """
    best: FoundFiles | None = None
    tried: list[Path] = []
    for root in (root_at(below, base) for base in roots for below in card.roots):
        tried.append(root)
        for layout in card.layouts if is_folder(root) else ():
            found = _look(root, layout, card)
            if found is None:
                continue
            if found.complete:
                return found
            if best is None or found.paired > best.paired:
                best = found
    if best is None or not best.paired:
        raise (best and best.trouble) or _nothing(card, tried)
    return best


def _look(root: Path, layout: Layout, card: Card) -> FoundFiles | None:
    if layout.coco or layout.parquet:
        return _look_in_list(root, layout, card)
    images, labels = _files(root, layout.image), _files(root, layout.label)
    _separate(images, labels, layout)
    if not images and not labels:
        return None
    others = _other_images(root, layout, {*images.values(), *labels.values()})
    ids, trouble = _ids(root, layout, images, labels)
    if ids is None and trouble is None:
        return None
    ids = ids or []
    items = (
        Item(i, images.get(i, path_of(i, root, layout.image)), labels.get(i, path_of(i, root, layout.label)))
        for i in ids
    )
    orphans = {} if layout.ids else {i: path for i, path in labels.items() if i not in images}
    return FoundFiles(
        root,
        layout,
        tuple(items),
        without_image=tuple(i for i in ids if i not in images),
        without_label=tuple(i for i in ids if i not in labels),
        paired=sum(i in images and i in labels for i in ids),
        orphan_labels=tuple(_by_path(_lonely(orphans, root, card, images), layout.label)),
        twice=tuple(i for i, n in Counter(ids).items() if n > 1),
        others=tuple(others),
        trouble=trouble,
    )


def _look_in_list(root: Path, layout: Layout, card: Card) -> FoundFiles | None:
    found = listed_files(root, layout, card)
    if found is None:
        return None
    missing = tuple(i for i in found.ids if i not in found.images)
    items = (Item(i, found.images.get(i, path_of(i, root, layout.image)), found.labels[i]) for i in found.ids)
    return FoundFiles(root, layout, tuple(items), missing, (), len(found.ids) - len(missing))


def _ids(
    root: Path, layout: Layout, images: Mapping[str, Path], labels: Mapping[str, Path]
) -> tuple[list[str] | None, InputError | None]:
    """Return the ids of the split, or None without its file, and what is wrong with that file."""
    if layout.ids in ("", "images"):
        return _by_path(images, layout.image), None
    if layout.ids == "labels":
        return _by_path(labels, layout.label), None
    split = root / layout.ids
    lines = read_split(split)
    if lines is None:
        return None, None
    try:
        ids = _listed(split, lines, root, layout, images, labels)
    except InputError as error:
        return None, error
    return ids, None


def _listed(
    split: Path, lines: list[str], root: Path, layout: Layout, images: Mapping[str, Path], labels: Mapping[str, Path]
) -> list[str]:
    """Return image ids from the lines of a split file: ids, file names, paths, or paths of image and label."""
    names = {}
    for pattern, files in ((layout.image, images), (layout.label, labels)):
        folder = pattern.split("{id}")[0].rpartition("/")[0]
        for image_id, path in files.items():
            names[path.relative_to(root).as_posix()] = names[path.relative_to(root / folder).as_posix()] = image_id
    names |= {image_id: image_id for image_id in (*labels, *images)}
    ids = []
    for number, line in enumerate(lines, 1):
        columns = [line] if line in names else re.split(r"[\s,;]+", line)
        meant = {names.get(re.sub(r"^(\./|/)+", "", column)) for column in columns}
        if len(meant) == 1 and None not in meant:
            ids.append(names[re.sub(r"^(\./|/)+", "", columns[0])])
        elif len(columns) == 1:
            ids.append(line.removesuffix(layout.image.split("{id}")[1]))  # an image that is missing
        else:
            raise InputError(
                f'"{line}" does not name an image and its label of this layout ({layout.image}, {layout.label})',
                where=f"{split}, line {number}",
                fix="write one image id per line",
            )
    if ids and images and labels and not any(i in names for i in ids):
        raise InputError(
            f'no line names an image of {root / layout.image}; the first is "{lines[0]}"',
            where=str(split),
            fix="write one image id per line: the name of its file without folder and suffix",
        )
    return ids


def _separate(images: dict[str, Path], labels: dict[str, Path], layout: Layout) -> None:
    """Give a file that both patterns match, as a mask beside its image, to the longer pattern."""
    loser = images if len(layout.label) >= len(layout.image) else labels
    winner = labels if loser is images else images
    taken = set(winner.values())
    for image_id in [i for i, path in loser.items() if path in taken]:
        del loser[image_id]


def _lonely(orphans: Mapping[str, Path], root: Path, card: Card, images: Mapping[str, Path]) -> list[str]:
    """Return the ids of labels that have no image in another layout either."""
    if not orphans:
        return []
    owned = {
        path
        for other in card.layouts
        if not (other.coco or other.parquet)
        for image_id, path in _files(root, other.label).items()
        if image_id in images
    }
    return [image_id for image_id, path in orphans.items() if path not in owned]


def _other_images(root: Path, layout: Layout, known: set[Path]) -> list[Path]:
    folder = root / layout.image.split("{id}")[0].rpartition("/")[0]
    if layout.ids not in ("", "images"):
        return []
    kinds = {suffix for family in SUFFIXES for suffix in family}
    return sorted(
        path for path in (folder / name for name in walk(folder)) if path.suffix.lower() in kinds and path not in known
    )


def path_of(image_id: str, root: Path, pattern: str) -> Path:
    """Return the file that a pattern of a card names for an image.

    Args:
        image_id: The image id.
        root: The folder of the dataset.
        pattern: A path with ``{id}``.

    Returns:
        The path, whether it exists or not.
    """
    return root / pattern.replace("{id}", image_id)


def read_split(path: Path) -> list[str] | None:
    """Read the lines of a split file.

    Args:
        path: The file.

    Returns:
        The lines without empty ones; None if the file does not exist.

    Raises:
        InputError: If the file cannot be read.
    """
    if not exists(path):
        return None
    with reading(path, "split file"):
        text = read_source(path).data.decode("utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _by_path(ids: Iterable[str], pattern: str) -> list[str]:
    suffix = pattern.split("{id}")[1]
    return sorted(ids, key=lambda i: i + suffix)


def _files(root: Path, pattern: str) -> dict[str, Path]:
    """Return the files that match a pattern of a card by image id; .jpg, .JPG and .jpeg are the same suffix.

    Raises:
        InputError: If two files have the same id, or a name is not UTF-8.
    """
    before, after = pattern.split("{id}")
    folder, _, prefix = before.rpartition("/")
    suffix = PurePosixPath(f"x{after}").suffix
    family = next((f for f in SUFFIXES if suffix.lower() in f), (suffix,))
    middle = after[: len(after) - len(suffix)]
    found: dict[str, Path] = {}
    for name in walk(root / folder):
        stem, dot, kind = name.rpartition(".")
        same = f"{dot}{kind}" == suffix or f"{dot}{kind}".lower() in family
        if not (same and stem.startswith(prefix) and stem.endswith(middle) and len(stem) > len(prefix) + len(middle)):
            continue
        image_id, path = stem[len(prefix) : len(stem) - len(middle)], root / folder / name
        _refuse_name(path)
        if image_id in found:
            raise InputError(
                f'"{found[image_id].name}" and "{path.name}" have the same image id, "{image_id}"',
                where=str(path.parent),
                fix="remove or rename one of the two",
            )
        found[image_id] = path
    return found


def _refuse_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        name = str(path).encode("utf-8", "backslashreplace").decode()
        raise InputError(f'the name of the file "{name}" is not UTF-8', fix="rename the file") from None


class NothingFound(InputError):
    """A folder has no file of a dataset."""


def _nothing(card: Card, tried: list[Path]) -> InputError:
    """Return the error if no layout has a pair of image and label."""
    if not tried:
        return NothingFound(
            f"no data root is known, so {card.name} cannot be found",
            fix=f'pass --data-root, set OVBENCH_DATA, or write data_root = "..." to {config_file()}',
        )
    for split in (root / layout.ids for root in tried for layout in card.layouts):
        if read_split(split) == []:
            return InputError("the split file is empty", where=str(split), fix=f"get it again from {card.source}")
    wanted = card.layouts[0]
    folders = ", ".join(str(path) for path in tried)
    source = unprepared(card, tried)
    if source is not None:
        command = f"ovbench data prepare {card.name} --source {quote(str(source))}"
        step = f"the download in {source} is not prepared yet; run: {command}"
    elif card.prepare:
        step = f"run: ovbench data prepare {card.name} --source DIR, with the download ({card.source})"
    else:
        step = f"get it from {card.source}" if card.source else "check the data root and the paths of the card"
    return NothingFound(
        f"no images and labels of {card.name} found; expected {' and '.join(wanted.files)}",
        where=f"looked in {folders}",
        fix=step,
    )


def unprepared(card: Card, roots: Iterable[Path]) -> Path | None:
    """Find the raw download of a dataset.

    Args:
        card: The card of the dataset.
        roots: The folders to search.

    Returns:
        The folder, or None.
    """
    here = (root for root in roots if isinstance(root, Path))
    return next((root for root in here if card.raw and (root / card.raw).exists()), None)
