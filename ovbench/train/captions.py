"""Captions of images: read from COCO's JSON, JSON lines or CSV, and matched with the files of a folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.errors import InputError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
IMAGE_KEYS, CAPTION_KEYS = ("image", "file_name"), ("caption", "captions")
FORMS = (
    'COCO captions (.json), one {"image": "a.jpg", "caption": "..."} per line (.jsonl), '
    "or a table with the columns image and caption (.csv)"
)


class Caption(NamedTuple):
    """One sentence about one image, which is named relative to its folder."""

    image: str
    text: str


@dataclass(frozen=True)
class Pairs:
    """Images of a folder and their captions: ``texts[i]`` is about the file ``folder / names[image_of[i]]``."""

    folder: Path
    names: tuple[str, ...]
    texts: tuple[str, ...]
    image_of: tuple[int, ...]


@dataclass(frozen=True)
class Unpaired:
    """What has no counterpart: ``captions`` whose image is not there, ``images`` without a caption, and captions
    without a word, each by the name of the image."""

    captions: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.captions or self.images or self.blank)

    def counts(self) -> dict[str, int]:
        return {
            "captions without an image": len(self.captions),
            "images without a caption": len(self.images),
            "captions without a word": len(self.blank),
        }

    def describe(self) -> str:
        """The counts in words, each with its first names."""
        kinds = zip(self.counts().items(), (self.captions, self.images, self.blank), strict=True)
        return "; ".join(f"{count} {kind} ({_some(names)})" for (kind, count), names in kinds if count)

    def lines(self) -> list[str]:
        """Every one of them, for a file."""
        kinds = zip(self.counts(), (self.captions, self.images, self.blank), strict=True)
        return [f"{kind}: {name}" for kind, names in kinds for name in names]


def _some(names: tuple[str, ...], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def read_captions(path: Path) -> list[Caption]:
    """Every caption of a file, in its order. InputError for a file that is missing, broken (with the line), empty, or
    of another form."""
    readers: dict[str, Callable[[str, Path], Iterable[Caption]]] = {".json": _coco, ".jsonl": _lines, ".csv": _table}
    if path.suffix.lower() not in readers:
        raise InputError(f'"{path}" is no kind of captions file that is known', fix=f"give {FORMS}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f'no captions file "{path}"', fix="check the path") from None
    except OSError as error:
        raise InputError(f'cannot read the captions "{path}": {error.strerror}') from None
    except UnicodeDecodeError:
        raise InputError(f'the captions "{path}" are not UTF-8 text', fix="save them as UTF-8") from None
    captions = list(readers[path.suffix.lower()](text, path))
    if not captions:
        raise InputError("no captions in the file", where=str(path), fix=f"give {FORMS}")
    return captions


def _coco(text: str, path: Path) -> Iterator[Caption]:
    document = _json(text, path)
    try:
        names = {image["id"]: image["file_name"] for image in document["images"]}
        annotations = document["annotations"]
        for number, annotation in enumerate(annotations):
            image = annotation["image_id"]
            yield _caption(names.get(image, f"image_id {image}"), annotation["caption"], path, f"annotation {number}")
    except (KeyError, TypeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else "another structure"
        raise InputError(
            f"not a COCO captions file: {missing}", where=str(path), fix='it needs "images" and "annotations"'
        ) from None


def _lines(text: str, path: Path) -> Iterator[Caption]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            entry = _json(line, path, first_line=number)
            yield from _entry(entry if isinstance(entry, dict) else {}, path, f"line {number}")


def _table(text: str, path: Path) -> Iterator[Caption]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"line {reader.line_num} has another number of fields than the first line",
                    where=str(path), fix="put captions with commas in quotes",
                )  # fmt: skip
            yield from _entry(row, path, f"line {reader.line_num}")
    except csv.Error as error:
        raise InputError(f"broken CSV in line {reader.reader.line_num}: {error}", where=str(path)) from None


def _entry(entry: dict[str, Any], path: Path, place: str) -> Iterator[Caption]:
    """One row of a table or one JSON object, which may hold several captions."""
    image = next((entry[key] for key in IMAGE_KEYS if key in entry), None)
    texts = next((entry[key] for key in CAPTION_KEYS if key in entry), None)
    if image is None or texts is None:
        absent = "image" if image is None else "caption"
        raise InputError(f'{place} has no "{absent}"', where=str(path), fix=f"give {FORMS}")
    for text in texts if isinstance(texts, list) else [texts]:
        yield _caption(image, text, path, place)


def _caption(image: Any, text: Any, path: Path, place: str) -> Caption:
    if not isinstance(image, str) or not isinstance(text, str):
        raise InputError(f"{place}: the name of the image and the caption must be texts", where=str(path))
    return Caption(image, text)


def _json(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"broken JSON in line {line}, column {error.colno}: {error.msg}", where=str(path)) from None


def pair(folder: Path, captions: Iterable[Caption]) -> tuple[Pairs, Unpaired]:
    """Match captions with the images below a folder. Images keep the order of their names, captions their own."""
    if not folder.is_dir():
        raise InputError(f'no folder "{folder}" of images', fix="check --images")
    present = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    captions, known = list(captions), set(present)
    good = [c for c in captions if c.image in known and c.text.strip()]
    named = {c.image for c in good}
    names = tuple(name for name in present if name in named)
    number = {name: i for i, name in enumerate(names)}
    unpaired = Unpaired(
        captions=tuple(dict.fromkeys(c.image for c in captions if c.image not in known)),
        images=tuple(name for name in present if name not in named),
        blank=tuple(c.image for c in captions if c.image in known and not c.text.strip()),
    )
    pairs = Pairs(folder, names, tuple(c.text for c in good), tuple(number[c.image] for c in good))
    return pairs, unpaired
