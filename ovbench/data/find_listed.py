"""Find the images and labels of layouts that list them: COCO annotations, and tables of Parquet or Arrow files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ovbench.data.card import Card, Layout
from ovbench.data.coco_file import CocoFile
from ovbench.data.row_file import ROW_SUFFIXES, RowFile
from ovbench.data.sources import exists, open_coco, open_container
from ovbench.utils.errors import InputError, unknown

DIGITS = 6  # of the image ids of rows


class ListedFiles(NamedTuple):
    """The paths of images and labels by image id, in order; an image that does not exist is not among them."""

    ids: tuple[str, ...]
    images: dict[str, Path]
    labels: dict[str, Path]


def listed_files(root: Path, layout: Layout, card: Card) -> ListedFiles | None:
    """Return the files of a layout with COCO annotations or tables, None if these do not exist.

    Args:
        root: The folder of the dataset.
        layout: The layout.
        card: Its card.

    Raises:
        InputError: If the annotations or tables are damaged, do not fit the card, or have ids that cannot be used.
    """
    return _annotated(root, layout, card) if layout.coco else _rows(root, layout)


def _annotated(root: Path, layout: Layout, card: Card) -> ListedFiles | None:
    path = root / layout.coco
    if not exists(path):
        return None
    found = open_coco(path)
    _check_categories(found, layout, card, str(path))
    folder = layout.image.split("{id}")[0].rpartition("/")[0]
    images, labels, ids = {}, {}, []
    stems = [PurePosixPath(image.file_name).with_suffix("").as_posix() for image in found.images]
    named = stems if len(set(stems)) == len(stems) else [image.file_name for image in found.images]
    if len(set(named)) != len(named):
        raise InputError("two images have the same file_name", where=str(path))
    for (key, name), image_id in zip(found.images, named, strict=True):
        ids.append(image_id)
        labels[image_id] = path / key
        image = next((file for file in (root / folder / name, root / name) if exists(file)), None)
        if image is not None:
            images[image_id] = image
    return ListedFiles(tuple(ids), images, labels)


def _check_categories(found: CocoFile, layout: Layout, card: Card, where: str) -> None:
    """Refuse a class without a category, which no label would ever have, and categories with the same name."""
    encoding = card.encoding(layout.encodings[0])
    names = [category.name for category in found.categories]
    twice = sorted({name for name in names if names.count(name) > 1 and found.used[name]})
    if twice:
        raise InputError(f'two categories are called "{twice[0]}"', where=where, fix="rename one of them")
    for number, name in enumerate(encoding.categories):
        if name not in names and number != encoding.background:
            raise InputError(
                f'no category of the annotations is called "{name}" (class {number} of {card.name})', where=where,
                fix=f"{unknown('category', name, names).fix}; to use other words as queries, write categories = "
                '["NAME", ...] in [encoding.coco]',
            )  # fmt: skip
    other = sorted(name for name, count in found.used.items() if count and name not in encoding.categories)
    if other and not encoding.ignores_others:
        raise InputError(
            f'{len(other)} categories of the annotations are of no class of {card.name}, first "{other[0]}"',
            where=where,
            fix='add them to the class list, or write else = "ignore" in [encoding.coco] to ignore their pixels',
        )


def _rows(root: Path, layout: Layout) -> ListedFiles | None:
    files = row_files(root, layout.parquet)
    if not files:
        return None
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    number = 0
    for path in files:
        table = open_container(path)
        assert isinstance(table, RowFile)
        for column in filter(None, (layout.image, layout.label, layout.ids)):
            _check_column(table, column, column != layout.ids)
        for row in range(table.rows):
            image_id = _id(table.value(layout.ids, row), path) if layout.ids else f"{number:0{DIGITS}d}"
            if image_id in images:
                raise InputError(f'two rows have the id "{image_id}"', where=str(path), fix="choose another column")
            images[image_id], labels[image_id] = path / layout.image / str(row), path / layout.label / str(row)
            number += 1
    return ListedFiles(tuple(images), images, labels)


def row_files(root: Path, pattern: str) -> list[Path]:
    """Return the Parquet or Arrow files of a pattern, or below a folder, sorted by name."""
    if (root / pattern).is_dir():
        found: Collection[Path] = [path for suffix in ROW_SUFFIXES for path in (root / pattern).rglob(f"*{suffix}")]
    else:
        found = list(root.glob(pattern)) if any(sign in pattern for sign in "*?[") else [root / pattern]
    return sorted(path for path in found if path.suffix.lower() in ROW_SUFFIXES and path.is_file())


def _check_column(table: RowFile, column: str, is_image: bool) -> None:
    if column not in table.columns:
        miss = unknown("column", column, table.columns)
        raise InputError(miss.what, where=str(table.path), fix=miss.fix)
    if is_image and not table.columns[column]:
        usable = ", ".join(name for name, images in table.columns.items() if images) or "none"
        what = f'the column "{column}" has no images, as bytes or as paths of files; columns with images: {usable}'
        raise InputError(what, where=str(table.path), fix="name another column in the card")


def _id(value: object, path: Path) -> str:
    """Return an image id; it names files of the output, so it must not lead to another folder."""
    text = str(value) if isinstance(value, (str, int)) else ""
    plain = PurePosixPath(text)
    if not plain.parts or plain.is_absolute() or ".." in plain.parts or not text.isprintable():
        raise InputError(f"{value!r} cannot be an image id", where=str(path), fix="name another column as ids")
    return text
