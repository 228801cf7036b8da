"""Dataset cards: the files of a benchmark in each known layout, and the meaning of its label values."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from dataclasses import dataclass
from pathlib import Path

from ovbench.data.card_file import CardFile, EncodingTable, LayoutTable
from ovbench.data.card_layout import Encoding, Layout
from ovbench.data.classes import (
    CANONICAL,
    Queries,
    published_list,
    read_class_list,
    read_classes_file,
    read_published_list,
)
from ovbench.data.label_colours import check_colours
from ovbench.data.shipped_cards import ENTRY_POINTS, card_groups, is_shipped_card, known_cards, list_cards, shipped_card
from ovbench.data.user_config import user_cards
from ovbench.data.vocabularies import changed_names, is_change
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import real_path, shipped
from ovbench.utils.registry import broken_plugin, entry_points, load_plugin
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import validate

__all__ = ["Card", "Encoding", "Layout", "list_cards", "load_card", "read_classes_file", "vocabulary"]

WIDE = 255  # with more classes, 255 is one of them


@dataclass(frozen=True)
class Card:
    """A dataset with its paths resolved.

    Attributes:
        name: The key "name" of the card, otherwise the stem of its file.
        title: One line for listings.
        split: Name of the split.
        classes: Canonical class names in label order.
        background: Index of the class of everything else, which gets pixels below a threshold; None if there is none.
        image_count: Number of images in the split.
        roots: Folders below the data root, tried in order.
        layouts: Known folder structures.
        encodings: Known label encodings.
        licence: Licence of the data.
        citation: Citation of the dataset.
        source: Where to download it.
        classes_file: File of the class names.
        path: File of the card.
        prepare: Converter in ovbench.data.prepare; None if the download is used unchanged.
        variant: Default name variant; None for the canonical names.
        generator: "module:function" that draws the dataset; shipped cards only.
        generated_folder: Folder of the drawn dataset in the cache; it gets a new name if the drawing changes.
        ids_sha256: Hash of the sorted image ids, one per line.
        archives: Each official archive, the prefix of the members to unpack, and their target.
        raw: Path that exists if there is an unprepared download.
        palette: Whether the original labels are palette images.
        white: Value of 16-bit images that is shown as white; None for 65535.
        classes_of_interest: Indices of the classes of the metric CoI_mIoU; empty for all but the background.
        distractors: Queries that no label has.
        unconfirmed: Facts of the card for which no source was found.
        like: Benchmark whose settings methods get on this dataset; None for their general ones.
        prob_thd: Threshold below which pixels become background; None for the one of the settings.
    """

    name: str
    title: str
    split: str
    classes: tuple[str, ...]
    background: int | None
    image_count: int
    roots: tuple[str, ...]
    layouts: tuple[Layout, ...]
    encodings: tuple[Encoding, ...]
    licence: str
    citation: str
    source: str
    classes_file: Path
    path: Path
    prepare: str | None = None
    variant: str | None = None
    generator: str | None = None
    generated_folder: str | None = None
    ids_sha256: str | None = None
    archives: tuple[tuple[str, ...], ...] = ()
    raw: str | None = None
    palette: bool = False
    white: int | None = None
    classes_of_interest: tuple[int, ...] = ()
    distractors: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()
    like: str | None = None
    prob_thd: float | None = None

    @property
    def argument(self) -> str:
        """The card as given on a command line: a shipped one by its name, another by its path, quoted for a shell."""
        return self.name if self.is_shipped else shlex.quote(str(self.path))

    @property
    def is_shipped(self) -> bool:
        """Whether the card ships with the package, so that published figures exist for it."""
        return is_shipped_card(self.path)

    def encoding(self, name: str) -> Encoding:
        """Return the encoding of that name."""
        return next(e for e in self.encodings if e.name == name)


# keys with the same value in a card and its file
PLAIN_KEYS = (
    "title", "split", "background", "image_count", "roots", "licence", "citation", "source", "prepare", "variant",
    "generator", "generated_folder", "ids_sha256", "archives", "raw", "palette", "white",
    "classes_of_interest", "unconfirmed", "like", "prob_thd",
)  # fmt: skip


@functools.cache
def load_card(name_or_path: str) -> Card:
    """Return the card of a shipped dataset, of the user's config file, of an installed plug-in, or of a file.

    Plug-ins are entry points of the group ``ovbench.datasets``.

    Raises:
        UsageError: If the name is not known.
        InputError: If the card is not valid.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path or "\\" in name_or_path:
        path = real_path(name_or_path)
        return _parse(path, is_shipped=is_shipped_card(path))
    if (shipped_path := shipped_card(name_or_path)) is not None:
        return _parse(shipped_path.resolve(), is_shipped=True)
    own = user_cards()
    if name_or_path in own:
        return _parse(real_path(own[name_or_path]), is_shipped=False)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name_or_path:
            found = load_plugin(point, "dataset")
            if not isinstance(found, (str, Path)):
                raise broken_plugin(point, "dataset", f"{found!r} is not the path of a card")
            return _parse(Path(found), is_shipped=False)
    raise unknown("dataset", name_or_path, [*known_cards(), *own, *card_groups()])


def vocabulary(card: Card, variant: str | None = None) -> Queries:
    """Return the queries of each class, exactly as written; a class may have several, or none (a constant background).

    Args:
        card: The card.
        variant: A family of methods with a published list (``"cass"``), "canonical", or a change of the names. None, or
            a family that published no list for this dataset, is the card's own choice: mostly the canonical names.

    Raises:
        UsageError: If the family is not known.
    """
    if variant and is_change(variant):
        return changed_names(card.name, card.classes, variant)
    own = card.variant or CANONICAL
    lists = (published_list(card.classes_file, card.name, name) for name in (variant or own, own))
    path = next(filter(None, lists), None)
    if path is None or path == card.classes_file:
        queries = read_class_list(card.classes_file).classes
    else:
        queries = read_published_list(path)
    if len(queries) != len(card.classes):
        raise InputError(f"{len(queries)} classes instead of {len(card.classes)}", where=str(path))
    return queries


def _parse(path: Path, *, is_shipped: bool) -> Card:
    where = path.name if is_shipped else str(path)
    file = validate(CardFile, read_toml(path), where)
    if file.generator is not None and not is_shipped:
        raise InputError('"generator" names code, which only a shipped card may', where=where, fix="remove the key")
    folder = shipped("datasets") if is_shipped else path.parent
    classes_file = folder / "classes" / file.classes if is_shipped else folder / file.classes
    listed = read_class_list(classes_file)
    classes = tuple(queries[0] for queries in listed.classes)
    encodings = tuple(_encoding(name, table, folder, len(classes)) for name, table in file.encoding.items())
    encodings = _with_categories(encodings, file, classes, where)
    layouts = (_layout(number, table, file.image, encodings, where) for number, table in enumerate(file.layout))
    card = Card(
        name=file.name or path.stem, path=path, classes_file=classes_file, classes=classes, encodings=encodings,
        layouts=tuple(layouts), distractors=listed.distractors,
        **{key: getattr(file, key) for key in PLAIN_KEYS},
    )  # fmt: skip
    _check(card, where)
    return card


def _with_categories(
    encodings: tuple[Encoding, ...], file: CardFile, classes: tuple[str, ...], where: str
) -> tuple[Encoding, ...]:  # fmt: skip
    """Return the encodings with the defaults, and in those of COCO layouts the categories of the classes."""
    coco = [table for table in file.layout if table.coco]
    if not encodings:
        made = (Encoding("coco", means="COCO annotations", stated=False),) if coco else ()
        encodings = (*(() if len(coco) == len(file.layout) else (_ordinary(len(classes)),)), *made)
        named = {"coco"}
    else:
        named = {name for table in coco for name in table.encodings or [e.name for e in encodings]}
    return tuple(
        _of_categories(encoding, file.background, classes, f"{where}, [encoding.{encoding.name}]")
        if encoding.name in named and coco
        else encoding
        for encoding in encodings
    )


def _of_categories(encoding: Encoding, background: int | None, classes: tuple[str, ...], where: str) -> Encoding:
    if encoding.values or encoding.shift or encoding.table or encoding.colours or encoding.common is not None:
        raise InputError('COCO annotations have "categories" and no values or colours', where=where)
    names = encoding.categories or classes
    if len(names) != len(classes) or len(set(names)) != len(names):
        raise InputError(f'"categories" must name one category for each of the {len(classes)} classes', where=where)
    return dataclasses.replace(
        encoding, categories=names, background=background, void=encoding.void or (_void(len(classes)),),
        means=encoding.means or "COCO annotations",
    )  # fmt: skip


def _ordinary(classes: int) -> Encoding:
    """Return the default encoding: class indices; 255 is ignored, or 65535 if 255 is a class."""
    void = _void(classes)
    return Encoding("index", void=(void,), means=f"class indices, {void} = ignored", stated=False)


def _encoding(name: str, file: EncodingTable, folder: Path, classes: int) -> Encoding:
    table = None if file.table is None else str(folder / file.table)
    void = (_void(classes),) if file.colours and not file.void else file.void
    means = file.means or ("colours" if file.colours else "")
    return Encoding(
        name, file.shift, void, file.values, table, file.common, means, True, file.colours, file.void_colours,
        bool(file.others), file.categories,
    )  # fmt: skip


def _void(classes: int) -> int:
    """Return the usual ignored value: 255, or 65535 if 255 is a class."""
    return 255 if classes <= WIDE else 65535


def _layout(
    number: int, file: LayoutTable, card_image: str, encodings: tuple[Encoding, ...], where: str
) -> Layout:  # fmt: skip
    place, known = f"{where}, layout[{number}]", [encoding.name for encoding in encodings]
    image = file.image or card_image
    _check_paths(file, image, place)
    chosen = tuple(known) if file.encodings is None else file.encodings
    if file.encodings is None and not encodings[0].stated:
        chosen = ("coco",) if file.coco else (known[0],)
    chosen_ones = [encoding for encoding in encodings if encoding.name in chosen]
    if len(chosen) > 1 and any(encoding.colours or encoding.categories for encoding in chosen_ones):
        raise InputError(
            "labels in colours and COCO annotations have one encoding", where=place,
            fix='name it: encodings = ["NAME"] in [[layout]]',
        )  # fmt: skip
    if not file.coco and any(encoding.categories for encoding in chosen_ones):
        raise InputError('"categories" are for COCO annotations', where=place, fix='write coco = "FILE.json" there')
    for name in chosen:
        if name not in known:
            miss = unknown("encoding", name, known)
            raise InputError(miss.what, where=place, fix=miss.fix)
    return Layout(file.name or f"layout {number}", image, file.label, chosen, file.ids, file.coco, file.parquet)


def _check_paths(file: LayoutTable, image: str, place: str) -> None:
    """Check the patterns of a layout of files, the annotations of COCO, or the columns of tables."""
    columns = f"{file.parquet}{image}{file.label}"
    if file.parquet and (file.coco or not image or not file.label or "{id}" in columns):
        what = 'tables need "parquet" (a path), "image" and "label" (names of columns), without {id}'
        raise InputError(what, where=place)
    for key, pattern in () if file.parquet else (("image", image), ("label", file.label)):
        if key == "label" and file.coco:
            if pattern or file.ids:
                fix = "panoptic PNG files are in the folder beside the JSON that has its name"
                raise InputError('"coco" stands without "label" and "ids"', where=place, fix=fix)
        elif not pattern:
            raise InputError(f'"{key}" is missing', where=place, fix="or give the annotations as coco or parquet")
        elif pattern.count("{id}") != 1:
            raise InputError(f'"{key}" must contain {{id}} once, got "{pattern}"', where=place)
    if image == file.label:
        raise InputError(f'"image" and "label" are the same, "{image}"', where=place)


def _check(card: Card, where: str) -> None:
    if not card.is_shipped and shipped_card(card.name):
        raise InputError(
            f'the card is called like the benchmark "{card.name}" of ovbench, whose figures are others', where=where,
            fix=f'give it a name of its own at its top: name = "my-{card.name}"',
        )  # fmt: skip
    if card.background is not None and card.background >= len(card.classes):
        raise InputError(f"background {card.background} is not a class, 0..{len(card.classes) - 1}", where=where)
    if any(number >= len(card.classes) for number in card.classes_of_interest):
        raise InputError(f'"classes_of_interest" must be classes, 0..{len(card.classes) - 1}', where=where)
    if card.prob_thd and card.background is None:
        raise InputError('"prob_thd" needs "background", the class of pixels below it', where=where)
    for encoding in card.encodings:
        _check_encoding(encoding, card, f"{where}, [encoding.{encoding.name}]")


def _check_encoding(encoding: Encoding, card: Card, where: str) -> None:
    """Check that no void value is a class, and that all values have at most 16 bits."""
    count, given = len(card.classes), encoding.values
    _check_colours(encoding, card, where)
    if given and (encoding.shift or encoding.table):
        raise InputError('"values" stands alone, without "shift" or "table"', where=where)
    if given and (len(given) != count or len(set(given)) != count):
        raise InputError(f'"values" must name one raw value for each of the {count} classes', where=where)
    raw = () if encoding.table is not None else given or range(encoding.shift, encoding.shift + count)
    if any(not 0 <= value <= 65535 for value in (*list(raw)[:1], *list(raw)[-1:])):
        raise InputError("label values are 0..65535", where=where)
    for value in encoding.void:
        if value in raw:
            number = raw.index(value)
            raise InputError(
                f'{value} is ignored, but it is the value of class {number}, "{card.classes[number]}"', where=where,
                fix='take it out of "void"; with more than 255 classes the ignored value is 65535 or none',
            )  # fmt: skip


def _check_colours(encoding: Encoding, card: Card, where: str) -> None:
    if encoding.colours and (encoding.values or encoding.shift or encoding.table or encoding.common is not None):
        raise InputError('"colours" stands without "values", "shift", "table" and "common"', where=where)
    check_colours(encoding.colours, encoding.void_colours, card.classes, where)
