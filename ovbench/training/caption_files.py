"""Captions of images in files: COCO's JSON, JSON Lines or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.utils.errors import InputError
from ovbench.utils.files import parse_json, reading

IMAGE_KEYS, CAPTION_KEYS = ("image", "file_name", "image_id"), ("caption", "captions")
FORMATS = (
    'COCO captions (.json), one {"image": "a.jpg", "caption": "..."} per line (.jsonl), '
    "or a table with the columns image and caption (.csv)"
)


class ImageCaption(NamedTuple):
    """One sentence about one image; ``image`` is its path relative to its folder."""

    image: str
    text: str


def read_captions(path: Path) -> list[ImageCaption]:
    """Read all captions of a file, in their order.

    Args:
        path: A file in one of `FORMATS`.

    Raises:
        InputError: If the file is missing, broken (with the line), empty, or of another format.
    """
    captions = [caption for _, found in _read(path) for caption in found]
    if not captions:
        raise InputError("no captions in the file", where=str(path), fix=f"give {FORMATS}")
    return captions


def index_captions(path: Path, key: Callable[[str], str]) -> Callable[[str], list[str]]:
    """Return a function from an image's key to its captions, in their order, blank ones left out.

    The lines of a JSON Lines file stay on disk, because captions of millions of images may not fit into memory.

    Args:
        path: A file in one of `FORMATS`.
        key: Turns an image's name in the file into the key that is looked up.

    Raises:
        InputError: As `read_captions`, but a file without captions is allowed.
    """
    entries: dict[str, list[Any]] = {}
    lines = path.suffix.lower() == ".jsonl"
    for offset, found in _read(path):
        for caption in found[:1] if lines else found:
            entries.setdefault(key(caption.image), []).append(offset if lines else caption)
    file = path.open("rb") if lines else None

    def captions(image: str) -> list[str]:
        found: list[ImageCaption] = []
        for entry in entries.get(image, ()):
            if file is None:
                found.append(entry)
            else:
                file.seek(entry)
                found += _json_line(file.readline(), path, f"at byte {entry}")
        return [caption.text.strip() for caption in found if caption.text.strip()]

    return captions


def _read(path: Path) -> Iterator[tuple[int, list[ImageCaption]]]:
    """Yield the captions of each entry with its offset in bytes (0 unless the file is JSON Lines)."""
    readers: dict[str, Callable[[Path], Iterable[tuple[int, list[ImageCaption]]]]] = {
        ".json": _coco, ".jsonl": _json_lines, ".csv": _table
    }  # fmt: skip
    if path.suffix.lower() not in readers:
        raise InputError(f'"{path}" is not a known format of captions', fix=f"give {FORMATS}")
    with reading(path, "captions file"):
        yield from readers[path.suffix.lower()](path)


def _coco(path: Path) -> Iterator[tuple[int, list[ImageCaption]]]:
    document = _json(path.read_text(encoding="utf-8-sig"), path)
    try:
        names = {image["id"]: image["file_name"] for image in document["images"]}
        for number, annotation in enumerate(document["annotations"]):
            image = annotation["image_id"]
            name = names.get(image, f"image_id {image}")
            yield 0, [_caption(name, annotation["caption"], path, f"annotation {number}")]
    except (KeyError, TypeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else "another structure"
        raise InputError(
            f"not a COCO captions file: {missing}", where=str(path), fix='it needs "images" and "annotations"'
        ) from None


def _json_lines(path: Path) -> Iterator[tuple[int, list[ImageCaption]]]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield offset, _json_line(line, path, f"line {number}", number)
            offset += len(line)


def _json_line(line: bytes, path: Path, where: str, number: int = 1) -> list[ImageCaption]:
    entry = _json(line.decode("utf-8-sig"), path, first_line=number)
    return _entry(entry if isinstance(entry, dict) else {}, path, where)


def _table(path: Path) -> Iterator[tuple[int, list[ImageCaption]]]:
    text = path.read_text(encoding="utf-8-sig")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"line {reader.line_num} has another number of fields than the first line",
                    where=str(path), fix="put captions with commas in quotes",
                )  # fmt: skip
            yield 0, _entry(row, path, f"line {reader.line_num}")
    except csv.Error as error:
        raise InputError(f"broken CSV in line {reader.reader.line_num}: {error}", where=str(path)) from None


def _entry(entry: dict[str, Any], path: Path, where: str) -> list[ImageCaption]:
    """Return the captions of one row of a table or one JSON object."""
    image = next((entry[key] for key in IMAGE_KEYS if key in entry), None)
    texts = next((entry[key] for key in CAPTION_KEYS if key in entry), None)
    if image is None or texts is None:
        absent = "image" if image is None else "caption"
        raise InputError(f'{where} has no "{absent}"', where=str(path), fix=f"give {FORMATS}")
    return [_caption(image, text, path, where) for text in (texts if isinstance(texts, list) else [texts])]


def _caption(image: Any, text: Any, path: Path, where: str) -> ImageCaption:
    image = str(image) if type(image) is int else image  # ids of COCO
    if not isinstance(image, str) or not isinstance(text, str):
        raise InputError(f"{where}: the name of the image and the caption must be text", where=str(path))
    return ImageCaption(image, text)


def _json(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"broken JSON in line {line}, column {error.colno}: {error.msg}", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"broken JSON at line {first_line}: {error}", where=str(path)) from None
