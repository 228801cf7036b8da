"""Propose the card of a folder: what its files are, how its labels are read, and which classes they have."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ovbench.data.card import load_card
from ovbench.data.coco_file import CocoFile
from ovbench.data.find_listed import row_files
from ovbench.data.propose_labels import (
    BACKGROUND_NAMES,
    LabelNames,
    find_names,
    propose_encoding,
    read_names,
)
from ovbench.data.propose_pairs import LABEL_WORDS, PREFERRED, find_pairs
from ovbench.data.row_file import ROW_SUFFIXES, RowFile
from ovbench.data.sources import ARCHIVES, COMPRESSED, is_folder, open_coco, open_container, read_source, walk
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import write_bytes
from ovbench.utils.paths import real_path
from ovbench.utils.toml import read_toml, toml_string

CARD = "ovbench.toml"
CLASSES = "ovbench-classes.txt"
LABEL_COLUMNS = ("label", "annotation", "mask", "segment", "semantic", "labels", "target", "gt")
SPLIT = re.compile(r"[^/.]*?(validation|valid|val|test|eval|train)", re.IGNORECASE)
LISTS = (".csv", ".tsv", ".jsonl", ".txt", ".json")  # that may name the files of a dataset
FILE_NAME, LIST_BYTES = re.compile(rb"\.(jpe?g|png|tiff?|bmp)\b", re.IGNORECASE), 1 << 16
WIDTH = 110


class Proposal(NamedTuple):
    """A new card.

    Attributes:
        card: Its path.
        classes: The class list to write beside it, None if the folder has one.
        names: The classes in order.
        text: The content of the card.
        notes: What was recognised, one sentence each.
    """

    card: Path
    classes: Path | None
    names: tuple[str, ...]
    text: str
    notes: tuple[str, ...]

    def write(self) -> None:
        """Write the card and its class list.

        Raises:
            UsageError: If one of them exists.
            InputError: If they cannot be written.
        """
        for path in filter(None, (self.card, self.classes)):
            if path.exists():
                raise UsageError(f'"{path}" exists', fix="remove it, or give another file with --out")
        if self.classes is not None:
            lines = "# one class per line in label order; synonyms after semicolons\n"
            write_bytes(self.classes, (lines + "".join(f"{name}\n" for name in self.names)).encode())
        write_bytes(self.card, self.text.encode("utf-8", "backslashreplace"))


class _Layout(NamedTuple):
    """The lines of a card about its files and labels, the classes, and notes."""

    lines: tuple[str, ...]
    names: tuple[str, ...]
    list_file: Path | None
    background: int | None
    notes: tuple[str, ...]


def propose(folder: Path, *, classes: Path | None = None, name: str | None = None, out: Path | None = None) -> Proposal:
    """Look at a folder or archive and propose its card.

    Recognised are COCO annotations, Parquet and Arrow files, and pairs of image and label files.

    Args:
        folder: A folder, or a zip or tar archive.
        classes: The class list, or a table of names and colours; by default one in the folder.
        name: Name of the dataset; by default the name of the folder.
        out: File of the card; by default ovbench.toml in the folder, or beside the archive.

    Raises:
        UsageError: If there is no such folder.
        InputError: If nothing is recognised, with what is missing.
    """
    folder = real_path(folder)
    if not is_folder(folder):
        raise UsageError(f'"{folder}" is not a folder or archive', fix="check the path")
    archive = folder.suffix.lower() in ARCHIVES and folder.is_file()
    card = real_path(out) if out else folder.with_suffix(".toml") if archive else folder / CARD
    names = read_names(classes) if classes else None if archive else find_names(folder)
    found = _annotated(folder) or _tables(folder, names) or _files(folder, names)
    own_list = found.list_file is not None and found.list_file.resolve().parent == card.parent
    list_path = found.list_file.resolve() if own_list and found.list_file else card.parent / _list_name(card)
    title = name or re.sub(r"[^\w.-]+", "-", folder.stem if archive else folder.name).strip("-.") or "own"
    lines = [
        f"name = {toml_string(title)}", f"title = {toml_string(title)}", f"classes = {toml_string(list_path.name)}",
        *([f"background = {found.background}"] if found.background is not None else []),
        *([] if folder == card.parent else [f"roots = [{toml_string(_relative(folder, card.parent))}]"]),
    ]  # fmt: skip
    text = "\n".join([*lines, "", *found.lines, ""])
    return Proposal(card, None if own_list else list_path, found.names, text, found.notes)


def with_count(path: Path, images: int) -> None:
    """Write the number of images into a card that has none, so that a missing image is noticed."""
    if "image_count" not in read_toml(path):
        text = path.read_text(encoding="utf-8")
        write_bytes(path, text.replace("\nclasses = ", f"\nimage_count = {images}\nclasses = ", 1).encode())
        load_card.cache_clear()


def _list_name(card: Path) -> str:
    return CLASSES if card.name == CARD else f"{card.stem}-classes.txt"


def _relative(folder: Path, base: Path) -> str:
    return folder.relative_to(base).as_posix() if folder.is_relative_to(base) else str(folder)


def _split_rank(name: str) -> int:
    """Return the position of a split among the usual ones for evaluation; others after them."""
    parts = re.split(r"[^a-z]+", name.lower())
    return min((PREFERRED.index(part) for part in parts if part in PREFERRED), default=len(PREFERRED))


def _annotated(folder: Path) -> _Layout | None:
    """Return the layout of COCO annotations, those of the usual split if there are several."""
    every = list(walk(folder))
    found: list[tuple[str, CocoFile]] = []
    problems: list[InputError] = []
    for name in sorted(n for n in every if n.lower().endswith(".json")):
        try:
            found.append((name, open_coco(folder / name)))
        except InputError as error:
            if "no list" not in error.what and "malformed JSON" not in error.what:
                problems.append(error)
    found = [(name, one) for name, one in found if one.images and one.used]
    if not found:
        if problems:
            raise problems[0]
        return None
    ranks = {name: (_image_folder(name, one, every)[1] == 0, _split_rank(name), name) for name, one in found}
    name, *others = sorted(ranks, key=ranks.__getitem__)
    annotations = dict(found)[name]
    where, present = _image_folder(name, annotations, every)
    if not present:
        what = f"no image of the annotations {name} is in the folder, first {annotations.images[0].file_name}"
        raise InputError(what, where=str(folder), fix="give the folder that has both images and annotations")
    return _coco_layout(name, annotations, where, others)


def _image_folder(name: str, annotations: CocoFile, every: list[str]) -> tuple[str, int]:
    """Return the folder of the images, and how many of them it has."""
    wanted = {image.file_name for image in annotations.images}
    depth = {len(PurePosixPath(name).parts) for name in wanted}
    hits: dict[str, int] = defaultdict(int)
    segments = f"{name.removesuffix('.json')}/"  # the PNG files of panoptic annotations
    for path in (PurePosixPath(one) for one in every if not (annotations.panoptic and one.startswith(segments))):
        for parts in depth:
            if len(path.parts) >= parts and "/".join(path.parts[-parts:]) in wanted:
                hits["/".join(path.parts[:-parts])] += 1
    best = max(hits, key=lambda one: (hits[one], not LABEL_WORDS.search(one), -_split_rank(one), one), default="")
    return best, hits.get(best, 0)


def _coco_layout(name: str, annotations: CocoFile, where: str, others: list[str]) -> _Layout:
    groups = {category.supercategory for category in annotations.categories}
    categories = [
        category.name for category in annotations.categories
        if annotations.used[category.name] or category.name not in groups  # a group without annotations of its own
    ]  # fmt: skip
    background = next((i for i, n in enumerate(categories) if n.casefold() in BACKGROUND_NAMES), None)
    notes = [f"{'panoptic' if annotations.panoptic else 'instance'} annotations in {name}, "
             f"{len(annotations.images)} images, {len(categories)} categories"]  # fmt: skip
    if background is None and not annotations.panoptic:
        categories, background = ["background", *categories], 0
        notes.append('pixels without annotation are the class "background"; without "background = 0" they are ignored')
    if others:
        notes.append(f"left out: {', '.join(others[:4])}{', ...' if len(others) > 4 else ''}")
    suffix = PurePosixPath(annotations.images[0].file_name).suffix
    pattern = f"{where}/{{id}}{suffix}".lstrip("/")
    lines = ["[[layout]]", f"image = {toml_string(pattern)}", f"coco = {toml_string(name)}", "", "[encoding.coco]",
             *_wrapped("categories", categories)]  # fmt: skip
    return _Layout(tuple(lines), tuple(categories), None, background, tuple(notes))


def _wrapped(key: str, texts: list[str]) -> list[str]:
    """Return a TOML list over as many lines as needed."""
    lines, line = [], f"{key} = ["
    for text in texts:
        item = toml_string(text) + ", "
        if len(line) + len(item) > WIDTH:
            lines.append(line.rstrip())
            line = "    "
        line += item
    return [*lines, line.removesuffix(", ") + "]"]


def _tables(folder: Path, names: LabelNames | None) -> _Layout | None:
    """Return the layout of Parquet or Arrow files, those of the usual split if their names tell several."""
    if not folder.is_dir():
        return None
    files = [path.relative_to(folder).as_posix() for path in row_files(folder, ".")]
    if not files:
        return None
    splits = defaultdict(list)
    for file in files:
        found = SPLIT.search(file)
        splits[found[1].lower() if found else ""].append(file)
    split = min(splits, key=lambda each: (_split_rank(each), each))
    pattern = _pattern(splits[split], files)
    table = open_container(folder / splits[split][0])
    assert isinstance(table, RowFile)
    usable = [column for column, images in table.columns.items() if images]
    if not usable:
        return None  # a table of facts about files, or of their names
    label = next((c for word in LABEL_COLUMNS for c in usable if word in c.lower()), None)
    image = next((c for c in usable if c != label), None)
    if label is None or image is None:
        what = f"no columns of images and labels recognised; columns with images: {', '.join(usable) or 'none'}"
        raise InputError(what, where=str(table.path), fix="write the card by hand, see docs/datasets.md")
    paths = [
        one / label / str(row)
        for one in row_files(folder, pattern)
        for row in range(open_container(one).rows)  # type: ignore[attr-defined]
    ]
    names = names or _stated_names(table, label)
    encoding = propose_encoding(paths, names, _how(folder))
    notes = [f"{len(paths)} rows in {pattern}, columns {image} and {label}", encoding.note]
    if len(splits) > 1:
        notes.append(f"left out: {', '.join(sorted(set(splits) - {split}))}")
    lines = ["[[layout]]", f"parquet = {toml_string(pattern)}", f"image = {toml_string(image)}",
             f"label = {toml_string(label)}", "", *encoding.lines]  # fmt: skip
    return _named(lines, names, notes)


def _pattern(files: list[str], every: list[str]) -> str:
    """Return a pattern that has these files only: a folder, a beginning of the names, or one file."""
    if len(files) == 1:
        return files[0]
    folder = "/".join(PurePosixPath(files[0]).parts[:-1])
    if files == [file for file in every if file.startswith(f"{folder}/") or not folder]:
        return folder or "."
    start = PurePosixPath(files[0]).name
    while not all(PurePosixPath(file).name.startswith(start) for file in files):
        start = start[:-1]
    return f"{folder}/{start}*{PurePosixPath(files[0]).suffix}".lstrip("/")


def _stated_names(table: RowFile, label: str) -> LabelNames | None:
    stated = table.class_names.get(label)
    return LabelNames(tuple(stated), (), (), table.path / label) if stated else None


def _files(folder: Path, names: LabelNames | None) -> _Layout:
    try:
        pairs = find_pairs(folder)
    except InputError as error:
        raise InputError("; ".join([error.what, *_unread(folder)]), where=error.where, fix=error.fix) from None
    encoding = propose_encoding(pairs.labels, names, _how(folder))
    lines = ["[[layout]]", f"image = {toml_string(pairs.image)}", f"label = {toml_string(pairs.label)}"]
    lines += [f"ids = {toml_string(pairs.ids)}"] if pairs.ids else []
    return _named([*lines, "", *encoding.lines], names, [pairs.note, encoding.note])


def _unread(folder: Path) -> list[str]:
    """Return a sentence about the first file that may have the data in a form that is not read, nothing otherwise."""
    for name in sorted(walk(folder)):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in COMPRESSED:
            return [f"{name} is compressed: decompress it once, then give the folder or the .tar"]
        listed = suffix in LISTS and FILE_NAME.search(read_source(folder / name).data[:LIST_BYTES])
        if suffix in ROW_SUFFIXES:
            return [f"{name} has no two columns of images, as bytes or as paths from its folder or the folder above"]
        if listed:
            return [f"{name} lists files: write it as Parquet, with a column of paths for images and one for labels"]
    return []


def _named(lines: list[str], names: LabelNames | None, notes: list[str]) -> _Layout:
    assert names is not None  # otherwise `propose_encoding` has raised
    background = next(
        (i for i, name in enumerate(names.names) if name.split(";")[0].strip().casefold() in BACKGROUND_NAMES), None
    )
    if background is not None:
        notes.append(f'"{names.names[background]}" is the class of everything else (background = {background})')
    notes.append(f"{len(names.names)} class names from {names.file.name}")
    plain_list = names.file if not names.colours and names.file.is_file() else None
    return _Layout(tuple(lines), names.names, plain_list, background, tuple(notes))


def _how(folder: Path) -> str:
    place = folder if folder.is_dir() else folder.parent
    return f"write the names, one per line in label order, to {place / 'classes.txt'}, or give a file with --classes"
