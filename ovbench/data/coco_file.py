"""Read COCO annotations, instances or panoptic, as one text per image that depends on this image only."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field

from ovbench.utils.errors import InputError
from ovbench.utils.files import parse_json
from ovbench.utils.typed import Typed, validate

FIX = "COCO annotations are an object with the lists images, annotations and categories"
LONGEST_NAME = 255  # bytes of a file name
MOST_PIXELS = 1 << 28


class CocoImage(Typed):
    """An entry of "images"."""

    model_config = ConfigDict(extra="ignore")
    id: int | str
    file_name: str
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]


class CocoCategory(Typed):
    """An entry of "categories"."""

    model_config = ConfigDict(extra="ignore")
    id: int
    name: str
    supercategory: str | None = None


class CocoListed(NamedTuple):
    """An image of the annotations: the name of its member, and of its file."""

    key: str
    file_name: str


class CocoFile:
    """The annotations of a dataset.

    ``read`` returns canonical JSON of one image: its size and its annotations with the names of their categories. Its
    hash changes only if the label of this image may change.

    Args:
        data: The JSON.
        where: The file, for messages.

    Attributes:
        images: The images in the order of the file.
        categories: The categories in the order of their ids.
        used: Number of annotations by category name.
        panoptic: Whether the annotations are segments in a PNG file for each image.
        names: The member names of the images.

    Raises:
        InputError: If the file is malformed.
    """

    def __init__(self, data: bytes, where: str):
        self.where = where
        content = self._parsed(data)
        categories = validate(list[CocoCategory], content["categories"], f"{where}, categories", fix=FIX)
        self.categories = sorted(categories, key=lambda category: category.id)
        by_id = {category.id: category.name for category in self.categories}
        if len(by_id) != len(self.categories):
            raise InputError("two categories have the same id", where=where)
        images = validate(list[CocoImage], content["images"], f"{where}, images", fix=FIX)
        self.images = [CocoListed(_key(image.id), plain_name(image.file_name, where)) for image in images]
        annotations: dict[str, list[dict[str, Any]]] = {_key(image.id): [] for image in images}
        if len(annotations) != len(images):
            raise InputError("two images have the same id", where=where)
        self.used: Counter[str] = Counter()
        self._png: dict[str, str] = {}
        for number, one in enumerate(content["annotations"]):
            place = f"{where}, annotations[{number}]"
            if not isinstance(one, dict) or _key(one.get("image_id")) not in annotations:
                raise InputError("the annotation is of no listed image", where=place, fix=FIX)
            key = _key(one["image_id"])
            annotations[key] += self._shapes(one, key, by_id, place)
        self.panoptic = bool(self._png)
        if self.panoptic and any(not shapes or "segment" not in shapes[0] for shapes in annotations.values() if shapes):
            raise InputError("some annotations are panoptic segments and others are instances", where=where)
        self._lines = {_key(image.id): _line(image, annotations[_key(image.id)], where) for image in images}
        self.names: Collection[str] = self._lines.keys()

    def _parsed(self, data: bytes) -> dict[str, Any]:
        try:
            content = parse_json(data)
        except ValueError as error:
            raise InputError(f"malformed JSON: {error}", where=self.where) from None
        lists = ("images", "annotations", "categories")
        if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
            missing = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
            raise InputError(f'no list "{missing[0]}"', where=self.where, fix=FIX)
        return content

    def _shapes(
        self, one: dict[str, Any], key: str, by_id: dict[int, str], place: str
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """Yield the category and the shape of an annotation; the PNG of a panoptic one is noted."""
        segments = one.get("segments_info")
        if segments is None:
            name = _category(one, by_id, place)
            self.used[name] += 1
            shape = one.get("segmentation")
            if not isinstance(shape, (list, dict)) or not shape:
                raise InputError("the annotation has no segmentation", where=place, fix="boxes alone label no pixels")
            yield {"category": name, "shape": shape}
            return
        if not isinstance(segments, list) or not isinstance(one.get("file_name"), str) or key in self._png:
            raise InputError("malformed panoptic annotation", where=place, fix=FIX)
        self._png[key] = plain_name(one["file_name"], place)
        for segment in segments:
            if not isinstance(segment, dict) or type(segment.get("id")) is not int:
                raise InputError("a segment has no number", where=place, fix=FIX)
            name = _category(segment, by_id, place)
            self.used[name] += 1
            yield {"category": name, "segment": segment["id"]}

    def png_name(self, key: str) -> str | None:
        """Return the name of the PNG file with the segments of an image, None if there is none."""
        return self._png.get(key)

    def read(self, name: str) -> bytes:
        """Return size and annotations of an image as one line of canonical JSON; KeyError if it is not listed."""
        return self._lines[name]


def _key(value: Any) -> str:
    return str(value).replace("/", "_") if type(value) in (int, str) else ""


def _category(one: dict[str, Any], by_id: dict[int, str], place: str) -> str:
    number = one.get("category_id")
    if type(number) is not int or number not in by_id:
        raise InputError(f"the category {number!r} is not listed", where=place, fix=FIX)
    return by_id[number]


def _line(image: CocoImage, shapes: list[dict[str, Any]], where: str) -> bytes:
    if image.width * image.height > MOST_PIXELS:
        raise InputError(f"the image {image.id} has {image.width}x{image.height} pixels", where=where)
    line = {"height": image.height, "width": image.width, "annotations": shapes}
    return json.dumps(line, separators=(",", ":"), sort_keys=True).encode()


def plain_name(name: str, where: str) -> str:
    """Return the name of a file if it leads to no other folder.

    Raises:
        InputError: If it is absolute or leads out of its folder.
    """
    plain = PurePosixPath(name.replace("\\", "/"))
    odd = not name.isprintable() or any(len(os.fsencode(part)) > LONGEST_NAME for part in plain.parts)
    if odd or not plain.parts or plain.is_absolute() or ".." in plain.parts:
        raise InputError(f"{name!r} is not the name of a file in a folder", where=where)
    return plain.as_posix()
