"""Dataset cards: a benchmark as data. Where its files lie in each known layout, and what a label value means."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench.data.classes import CANONICAL, Queries, published_list, read_classes_file, read_published_list
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import shipped
from ovbench.utils.registry import broken_plugin, entry_points, load_plugin
from ovbench.utils.toml import read_toml, refuse_unknown_keys, refuse_wrong_types

__all__ = ["Card", "Encoding", "Layout", "list_cards", "load_card", "read_classes_file", "vocabulary"]

ENTRY_POINTS = "ovbench.datasets"
WIDE = 255  # with more classes, 255 is one of them
PLAIN_KEYS = frozenset(
    (
        "licence",
        "citation",
        "source",
        "prepare",
        "raw",
        "palette",
        "white",
        "ids_sha256",
        "variant",
        "generator",
        "generated_folder",
    )
)


@dataclass(frozen=True)
class Encoding:
    """What the raw value of a label pixel means: ``raw - shift``, its place in ``values``, or its entry in a table;
    ``void`` is not scored."""

    name: str
    shift: int = 0
    void: tuple[int, ...] = ()
    values: tuple[int, ...] = ()  # the raw value of each class, as 0 and 255 of a mask
    table: str | None = None  # path of a two-column text file: raw value, class or "-"
    common: int | None = None  # a raw value that most files hold; tells encodings with equal ranges apart
    means: str = ""  # in words, for the user whose files turn out to be in this encoding
    stated: bool = True  # by the card, not a default


@dataclass(frozen=True)
class Layout:
    """One way to lay the files out: ``{id}`` stands for the image id, which may contain folders."""

    name: str
    image: str
    label: str
    encodings: tuple[str, ...]  # the first is the documented one; another is used where only it fits the files
    ids: str = ""  # every image, and every label must have one; or "images", "labels", or the path of a split file


@dataclass(frozen=True)
class Card:
    """A benchmark. ``name`` is the card's key of that name, or else its file's stem. ``classes`` are the canonical
    names in label order; ``background`` is the index of the class that gathers everything else, scored by a threshold,
    or None."""

    name: str
    title: str
    split: str
    classes: tuple[str, ...]
    background: int | None
    image_count: int
    roots: tuple[str, ...]  # folders below the data root, tried in turn
    layouts: tuple[Layout, ...]
    encodings: tuple[Encoding, ...]
    licence: str
    citation: str
    source: str
    classes_file: Path
    path: Path
    prepare: str | None = None  # converter in ovbench.data.prepare, None if the download is used as is
    variant: str | None = None  # the name variant used where none is asked for, None for the canonical names
    generator: str | None = None  # "module:function" that draws the benchmark; shipped cards only
    generated_folder: str | None = None  # its folder in the cache; a new name when the drawing changes
    ids_sha256: str | None = None  # of the sorted ids, one per line
    archives: tuple[tuple[str, ...], ...] = ()  # official archive, prefix of the members to take, where they belong
    raw: str | None = None  # path that shows that the unprepared download is there
    palette: bool = False  # the original labels are palette images, not grey ones
    white: int | None = None  # the value of 16-bit images that is shown as white, 65535 if None

    @property
    def argument(self) -> str:
        """How the command line names the card: a shipped one by its name, another by its path."""
        return self.name if self.path.parent == shipped("datasets") else str(self.path)

    @property
    def is_shipped(self) -> bool:
        """Whether it is a benchmark of the package, for which there are published figures."""
        return self.path.parent == shipped("datasets").resolve()

    def encoding(self, name: str) -> Encoding:
        """The encoding of that name."""
        return next(e for e in self.encodings if e.name == name)


@functools.cache
def load_card(name_or_path: str) -> Card:
    """The card of a shipped benchmark, of an installed plug-in (entry point group ``ovbench.datasets``) or of a file.

    Raises UsageError for an unknown name and InputError for a card that is not valid.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path or "\\" in name_or_path:
        path = Path(name_or_path).expanduser().resolve()
        return _parse(path, is_shipped=path.parent == shipped("datasets").resolve())
    path = shipped("datasets", f"{name_or_path}.toml")
    if path.is_file():
        return _parse(path.resolve(), is_shipped=True)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name_or_path:
            found = load_plugin(point, "dataset")
            if not isinstance(found, (str, Path)):
                raise broken_plugin(point, "dataset", f"{found!r} is no path of a card")
            return _parse(Path(found), is_shipped=False)
    raise unknown("dataset", name_or_path, list_cards())


def list_cards() -> list[str]:
    """Names of the shipped benchmarks, then of those from installed plug-ins."""
    own = sorted(path.stem for path in shipped("datasets").glob("*.toml"))
    return own + sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - set(own))


def vocabulary(card: Card, variant: str | None = None) -> Queries:
    """The query strings of each class, word for word; a class may own several, or none (a constant-score background).

    ``variant`` is a family of methods whose published list is wanted (``"cass"``), or "canonical". None, or a family
    that published no list for this benchmark, is the card's own choice: mostly the canonical names. Raises UsageError
    for an unknown family.
    """
    path = published_list(card.classes_file, card.name, variant or card.variant or CANONICAL)
    if path is None:
        path = published_list(card.classes_file, card.name, card.variant or CANONICAL)
    queries = read_classes_file(path) if path == card.classes_file else read_published_list(path)
    if len(queries) != len(card.classes):
        raise InputError(f"{len(queries)} classes instead of {len(card.classes)}", where=str(path))
    return queries


def _parse(path: Path, *, is_shipped: bool) -> Card:
    table = read_toml(path)
    where = path.name if is_shipped else str(path)
    _check_keys(table, where, is_shipped)
    folder = shipped("datasets") if is_shipped else path.parent
    classes_file = folder / "classes" / table["classes"] if is_shipped else folder / table["classes"]
    classes = tuple(queries[0] for queries in read_classes_file(classes_file))
    encodings = tuple(_encoding(n, t, folder, where) for n, t in table.get("encoding", {}).items())
    encodings = encodings or (_ordinary(len(classes)),)
    layouts = enumerate({"image": table.get("image", "")} | t for t in table["layout"])
    plain = {key: table[key] for key in table.keys() & PLAIN_KEYS}
    card = Card(
        name=table.get("name", path.stem),
        title=table["title"],
        split=table.get("split", "val"),
        path=path,
        classes_file=classes_file,
        classes=classes,
        background=table.get("background"),
        image_count=table.get("image_count", 0),
        roots=tuple(table.get("roots", ["."])),
        encodings=encodings,
        layouts=tuple(_layout(number, t, encodings, where) for number, t in layouts),
        archives=tuple(tuple(row) for row in table.get("archives", ())),
        **({"licence": "", "citation": "", "source": ""} | plain),
    )
    _check(card, where)
    return card


def _check_keys(table: dict[str, Any], where: str, is_shipped: bool) -> None:
    known = {"classes", "roots", "encoding", "layout", "image"} | {f.name for f in dataclasses.fields(Card)}
    refuse_unknown_keys(table, known - {"layouts", "encodings", "classes_file", "path"}, where)
    for key in ("title", "classes", "layout"):
        if key not in table:
            raise InputError(f'the card has no "{key}"', where=where)
    refuse_wrong_types({k: v for k, v in table.items() if k != "classes"}, Card, where)
    if not isinstance(table["classes"], str):
        raise InputError('"classes" must be the name of a file with one class per line', where=where)
    if not isinstance(table["layout"], list) or not all(isinstance(t, dict) for t in table["layout"]):
        raise InputError('"layout" must be a list of tables', where=where, fix="write [[layout]]")
    if "name" in table and not re.fullmatch(r"[\w-][\w.-]*", table["name"]):
        raise InputError(f'"{table["name"]}" is no name', where=where, fix="use letters, digits, dots, - and _ in it")
    encodings = table.get("encoding", {})
    if not isinstance(encodings, dict) or not all(isinstance(t, dict) for t in encodings.values()):
        raise InputError('"encoding" must be a table of tables', where=where, fix="write [encoding.NAME]")
    if "generator" in table and not is_shipped:
        raise InputError('"generator" names code, which only a shipped card may', where=where, fix="remove the key")


def _ordinary(classes: int) -> Encoding:
    """Class indices; ignored is 255, or 65535 where 255 is a class."""
    void = 255 if classes <= WIDE else 65535
    return Encoding("index", void=(void,), means=f"class indices, {void} = ignored", stated=False)


def _encoding(name: str, table: dict[str, Any], folder: Path, where: str) -> Encoding:
    place = f"{where}, [encoding.{name}]"
    refuse_unknown_keys(
        table, [f.name for f in dataclasses.fields(Encoding) if f.name not in ("name", "stated")], place
    )
    refuse_wrong_types(table, Encoding, place)
    values = dict(table, void=tuple(table.get("void", ())), values=tuple(table.get("values", ())))
    if "table" in values:
        values["table"] = str(folder / values["table"])
    return Encoding(name=name, **values)


def _layout(number: int, table: dict[str, Any], encodings: tuple[Encoding, ...], where: str) -> Layout:
    place, known = f"{where}, layout[{number}]", [encoding.name for encoding in encodings]
    refuse_unknown_keys(table, [f.name for f in dataclasses.fields(Layout)], place)
    refuse_wrong_types(table, Layout, place)
    for key in ("image", "label"):
        if table.get(key, "").count("{id}") != 1:
            raise InputError(f'"{key}" must contain {{id}} once, got "{table.get(key, "")}"', where=place)
    if table["image"] == table["label"]:
        raise InputError(f'"image" and "label" are the same, "{table["image"]}"', where=place)
    chosen = tuple(table.get("encodings", known))
    for name in chosen:
        if name not in known:
            miss = unknown("encoding", name, known)
            raise InputError(miss.what, where=place, fix=miss.fix)
    return Layout(**{"name": f"layout {number}", **table, "encodings": chosen})


def _check(card: Card, where: str) -> None:
    if not card.is_shipped and shipped("datasets", f"{card.name}.toml").is_file():
        raise InputError(
            f'the card is called like the benchmark "{card.name}" of ovbench, whose figures are others', where=where,
            fix=f'give it a name of its own at its top: name = "my-{card.name}"',
        )  # fmt: skip
    if card.background is not None and not 0 <= card.background < len(card.classes):
        raise InputError(f"background {card.background} is not a class, 0..{len(card.classes) - 1}", where=where)
    if card.white is not None and not 255 <= card.white <= 65535:
        raise InputError(f"white {card.white} is not a value of 16-bit images, 255..65535", where=where)
    if not card.layouts or any(not layout.encodings for layout in card.layouts):
        raise InputError("a card needs a layout, and each layout an encoding", where=where)
    for encoding in card.encodings:
        _check_encoding(encoding, card, f"{where}, [encoding.{encoding.name}]")
    if any(len(row) != 3 for row in card.archives):
        raise InputError('"archives" takes rows of three: file, prefix of its members, folder', where=where)


def _check_encoding(encoding: Encoding, card: Card, where: str) -> None:
    """Void must not hide a class, and 16 bits must hold every value."""
    count, given = len(card.classes), encoding.values
    if given and (encoding.shift or encoding.table):
        raise InputError('"values" stands alone, without "shift" or "table"', where=where)
    if given and (len(given) != count or len(set(given)) != count):
        raise InputError(f'"values" must name one raw value for each of the {count} classes', where=where)
    raw = () if encoding.table is not None else given or range(encoding.shift, encoding.shift + count)
    if any(not 0 <= value <= 65535 for value in (*encoding.void, *given, *list(raw)[:1], *list(raw)[-1:])):
        raise InputError("label values are 0..65535", where=where)
    for value in encoding.void:
        if value in raw:
            number = raw.index(value)
            raise InputError(
                f'{value} is ignored, but it is the value of class {number}, "{card.classes[number]}"',
                where=where,
                fix='take it out of "void"; with more than 255 classes the ignored value is 65535 or none',
            )


def ids_sha256(ids: Iterable[str]) -> str:
    """Return the hash of image ids, one per line.

    Args:
        ids: the ids in order.

    Returns:
        sha256, hexadecimal.
    """
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
