"""Find and read label maps of any origin, to score them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ovbench.data.card import Card, Encoding
from ovbench.data.dataset import Dataset
from ovbench.data.decode import read_label_file
from ovbench.data.integrity import BROKEN_ARRAYS
from ovbench.data.labels import LabelMap, label_map
from ovbench.data.rle import decode_rle
from ovbench.evaluation.predictions import ABOUT
from ovbench.utils.errors import InputError, UsageError, first_line, unknown
from ovbench.utils.files import read_json
from ovbench.utils.typed import OpenTyped, validate

DETECTRON2 = "sem_seg_predictions.json"  # of detectron2's SemSegEvaluator: the masks of all images
SUFFIXES = (".png", ".npz", ".npy", ".json", ".tif", ".tiff", ".bmp", ".gif")
INDEX = "index"
SAMPLE = 64  # maps whose values are looked at
COMPARED, MUCH = 8, 0.2  # maps that are compared with labels, and a difference of accuracy that is no accident
Masks = Sequence[Mapping[str, Any]]


class SavedMaps(OpenTyped):
    """What `ovbench eval` writes beside its label maps."""

    dataset: str
    classes: list[str]
    encoding: str | None = None
    method: str | None = None


class PredictionFiles(NamedTuple):
    """The label maps of a dataset.

    Attributes:
        folder: Their folder.
        files: The file of each image, by id.
        masks: The masks of each image by id, if one file has all of them.
        about: What `ovbench eval` wrote of its label maps; empty for maps of another program.
    """

    folder: Path
    files: dict[str, Path]
    masks: dict[str, Masks]
    about: dict[str, Any]

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.files or image_id in self.masks

    def read(self, image_id: str, size: tuple[int, int]) -> np.ndarray:
        """Return the stored values of an image, uint16 (H, W); 65535 where masks leave a pixel empty.

        Args:
            image_id: The image.
            size: (H, W) of the image.

        Raises:
            InputError: If there is no map, or it cannot be read.
        """
        where = str(self.files.get(image_id, self.folder / DETECTRON2))
        if image_id in self.masks:
            return _painted(self.masks[image_id], size, where)
        if image_id not in self.files:
            raise InputError("no label map of this image", where=str(self.folder))
        path = self.files[image_id]
        if path.suffix.lower() == ".json":
            return _painted(_list_of_masks(read_json(path), where), size, where)
        return _array(path) if path.suffix.lower() in (".npz", ".npy") else read_label_file(path).values

    def confidence(self, image_id: str, size: tuple[int, int]) -> np.ndarray | None:
        """Return the stored confidence of an image, float (H, W) in 0..1, None if there is none.

        Args:
            image_id: The image.
            size: (H, W) of the image.
        """
        path = self.files.get(image_id)
        if path is None or path.suffix.lower() != ".npz":
            return None
        with np.load(path, allow_pickle=False) as found:  # `read` has refused a damaged file
            values = found.get("confidence")
        fits = values is not None and values.shape == size and values.dtype.kind == "f"
        return values if fits and 0 <= values.min(initial=0) <= values.max(initial=0) <= 1 else None


def find_predictions(folder: Path, dataset: Dataset) -> PredictionFiles:
    """Find the label map of each image of a dataset below a folder.

    A file belongs to the image whose id, or last part of it, is its name; all names may have a common ending, such as
    ``_pred`` or the one of a test server. A file `DETECTRON2` has the masks of all images.

    Args:
        folder: The folder.
        dataset: The images.

    Raises:
        InputError: If the folder does not exist or has no map of an image, or maps of another dataset.
    """
    if not folder.is_dir():
        raise InputError(f'no folder "{folder}"', where="--predictions", fix="check the path")
    about = _read_about(folder / ABOUT)
    _refuse_other(about, dataset.card, folder)
    if (folder / DETECTRON2).is_file():
        masks = _by_image(_list_of_masks(read_json(folder / DETECTRON2), str(folder / DETECTRON2)), dataset)
        return _not_empty(PredictionFiles(folder, {}, masks, about), dataset)
    found = [
        path
        for where, folders, names in os.walk(folder)
        for path in (Path(where, name) for name in sorted(names))
        if not folders.sort() and path.suffix.lower() in SUFFIXES and path.name != ABOUT
    ]
    return _not_empty(PredictionFiles(folder, _files_by_image(found, folder, dataset), {}, about), dataset)


def _not_empty(found: PredictionFiles, dataset: Dataset) -> PredictionFiles:
    if not found.files and not found.masks:
        first = dataset.items[0].id
        raise InputError(
            f"no label map of an image of {dataset.card.name}", where=str(found.folder),
            fix=f"name the maps by the image ids, as {first}.png or {PurePosixPath(first).name}.png",
        )  # fmt: skip
    return found


def _read_about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    about = read_json(path)
    validate(SavedMaps, about, str(path), what="the note of saved label maps", fix="remove it, or save the maps again")
    return about


def _refuse_other(about: Mapping[str, Any], card: Card, folder: Path) -> None:
    if about and (about.get("dataset"), about.get("classes")) != (card.name, list(card.classes)):
        there, here = len(about["classes"]), len(card.classes)
        raise InputError(
            f"the label maps are of {about['dataset']} with {there} classes, not of {card.name} with {here}",
            where=str(folder / ABOUT), fix="give the dataset that was labelled",
        )  # fmt: skip


def _files_by_image(paths: Sequence[Path], folder: Path, dataset: Dataset) -> dict[str, Path]:
    """Return the file of each image: by its whole id, or by the last part of the id and a common ending."""
    by_id: dict[str, Path] = {}
    known = {item.id for item in dataset.items}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in known and name in by_id:
            raise InputError(
                f'"{by_id[name].name}" and "{path.name}" are maps of one image', where=str(folder),
                fix="keep the maps of one format in the folder",
            )  # fmt: skip
        by_id[name] = path
    whole = {item.id: by_id[item.id] for item in dataset.items if item.id in by_id}
    if whole:
        return whole
    ids: dict[str, list[str]] = {}
    for item in dataset.items:
        ids.setdefault(PurePosixPath(item.id).name, []).append(item.id)
        ids.setdefault(item.id.replace("/", "_"), [item.id])
    matched = [(path, name) for path in paths if (name := _longest_name(path.stem, ids))]
    endings = Counter(path.stem.removeprefix(name) for path, name in matched)
    if not endings:
        return {}
    ending = max(endings, key=lambda text: (endings[text], -len(text)))
    files: dict[str, Path] = {}
    for path, name in matched:
        if path.stem != name + ending:
            continue
        if len(ids[name]) > 1 or ids[name][0] in files:
            raise InputError(
                f'"{path.name}" may be of several images or have a double', where=str(folder),
                fix="name the maps by the whole image ids, with their folders",
            )  # fmt: skip
        files[ids[name][0]] = path
    return files


def _longest_name(stem: str, ids: Mapping[str, object]) -> str:
    """Return the longest name that a stem begins with, followed by nothing or by a separator; "" if there is none."""
    ends = [end for end in range(len(stem), 0, -1) if end == len(stem) or stem[end] in "_-. "]
    return next((stem[:end] for end in ends if stem[:end] in ids), "")


def _list_of_masks(found: Any, where: str) -> Masks:
    masks = found.get("annotations") if isinstance(found, dict) else found
    if not isinstance(masks, list) or not all(isinstance(m, dict) and "segmentation" in m for m in masks):
        raise InputError("not a list of COCO masks", where=where)
    for mask in masks:
        category = mask.get("category_id")
        if type(category) is not int or not 0 <= category < 65535:
            raise InputError(f"category_id is {category!r}, not a class", where=where)
    return masks


def _by_image(masks: Masks, dataset: Dataset) -> dict[str, Masks]:
    """Group the masks of detectron2, which name the image file, by image."""
    ids = {item.image_path.name: item.id for item in dataset.items}
    if len(ids) < len(dataset.items):
        ids = {str(item.image_path): item.id for item in dataset.items}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for mask in masks:
        name = str(mask.get("file_name", ""))
        image = ids.get(name) or ids.get(PurePosixPath(name).name)
        if image is not None:
            found.setdefault(image, []).append(mask)
    return dict(found)


def _painted(masks: Masks, size: tuple[int, int], where: str) -> np.ndarray:
    values = np.full(size, 65535, np.uint16)
    for mask in masks:
        category = mask["category_id"]
        inside = decode_rle(mask["segmentation"], where=where, size=size)
        if (values[inside] != 65535).any():
            raise InputError("masks of one image overlap, so a pixel has two classes", where=where)
        values[inside] = category
    return values


def _array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                values = found
            elif "labels" in found or len(found.files) == 1:
                values = found["labels" if "labels" in found else found.files[0]]
            else:
                raise InputError(f'no array "labels" among {", ".join(found.files)}', where=str(path))
    except BROKEN_ARRAYS as error:
        raise InputError(f"cannot read the label map: {first_line(error)}", where=str(path)) from None
    values = values.squeeze()
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise InputError(f"the label map is {values.dtype} {values.shape}, not integers (H, W)", where=str(path))
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise InputError("the label map has values outside 0..65535", where=str(path))
    return values.astype(np.uint16)


def index_map(card: Card) -> LabelMap:
    """Return the table of class indices; 255 (or 65535) is no class."""
    classes = len(card.classes)
    void = (65535,) if classes > 255 else (255, 65535)
    return label_map(Encoding(INDEX, void=void), classes)


def choose_values(found: PredictionFiles, dataset: Dataset, asked: str | None) -> LabelMap:
    """Return how the values of the label maps are read: as class indices, or in an encoding of the card.

    Args:
        found: The label maps.
        dataset: The images.
        asked: "index", the name of an encoding of the card, or None to decide by a sample of the maps.

    Raises:
        UsageError: If the name is not known, or the sample fits several encodings and says nothing for class indices.
        InputError: If no encoding has the values of the sample.
    """
    card = dataset.card
    tables = {INDEX: index_map(card)}
    for encoding in card.encodings:
        if not encoding.colours and encoding.name != INDEX:
            tables[encoding.name] = label_map(encoding, len(card.classes))
    asked = asked or found.about.get("encoding")
    if asked is not None:
        if asked not in tables:
            raise unknown("encoding", asked, tables, where="--encoding")
        return tables[asked]
    present = _values_of_sample(found, dataset)
    fitting = [name for name, table in tables.items() if _admits(table, present)]
    if not fitting:
        text = ", ".join(map(str, present[:12])) + (", ..." if len(present) > 12 else "")
        raise InputError(
            f"the maps have the values {text}, but class indices are {tables[INDEX].admitted()}",
            where=str(found.folder), fix=f"write class indices, or one of the encodings {', '.join(tables)}",
        )  # fmt: skip
    same = {tables[name].table[present].tobytes() for name in fitting}
    if len(same) > 1 and (fitting[0] != INDEX or 0 not in present):
        raise UsageError(
            f"the values of the maps fit several encodings: {', '.join(fitting)}", where=str(found.folder),
            fix="say which with --encoding; index: values are class indices from 0",
        )  # fmt: skip
    return tables[fitting[0]]


def _admits(table: LabelMap, values: np.ndarray) -> bool:
    return bool(table.admits(values[values != 65535]).all())


def _values_of_sample(found: PredictionFiles, dataset: Dataset) -> np.ndarray:
    ids = [item.id for item in dataset.items if item.id in found]
    present: set[int] = set()
    problem = None
    for image_id in ids[:: max(1, len(ids) // SAMPLE)]:
        masks = found.masks.get(image_id)
        if masks is None and found.files[image_id].suffix.lower() == ".json":
            masks = _list_of_masks(read_json(found.files[image_id]), str(found.files[image_id]))
        if masks is not None:
            present |= {mask["category_id"] for mask in masks}
            continue
        try:
            present |= set(np.unique(found.read(image_id, (0, 0))).tolist())
        except InputError as error:
            problem = error  # the image fails when it is scored
    if problem is not None and not present:
        raise problem
    return np.array(sorted(value for value in present if 0 <= value <= 65535), np.uint16)


def better_reading(found: PredictionFiles, dataset: Dataset, chosen: LabelMap) -> str:
    """Return a sentence if the maps agree far better with the labels when their values are read in another way.

    Values that count from 1, or have the background last, are no error by themselves, but give a wrong score.

    Args:
        found: The label maps.
        dataset: The images and labels.
        chosen: How the values are read.
    """
    classes = len(dataset.card.classes)
    counted, last = np.full((2, 65536), 65534, np.uint16)
    counted[1 : classes + 1] = np.arange(classes)
    last[:classes] = np.roll(np.arange(classes), -1)
    readings = {"": chosen.table, "values that count from 1": counted, "the first class as the last value": last}
    for encoding in dataset.card.encodings:
        if not encoding.colours:
            readings[f'the encoding "{encoding.name}"'] = label_map(encoding, classes).table
    right, scored = dict.fromkeys(readings, 0), 0
    numbers = [number for number, item in enumerate(dataset.items) if item.id in found]
    for number in numbers[:: max(1, len(numbers) // COMPARED)]:
        try:
            label = dataset.read_label(number)
            raw = found.read(dataset.items[number].id, label.shape)
        except InputError:
            continue  # the image fails when it is scored
        kept = label < classes
        if raw.shape == label.shape:
            scored += int(kept.sum())
            for name, table in readings.items():
                right[name] += int((table[raw] == label)[kept].sum())
    best = max(right, key=lambda name: (right[name], name == ""))
    if right[best] - right[""] <= MUCH * scored:
        return ""
    percent = {name: f"{100 * right[name] / scored:.0f} %" for name in ("", best)}
    return f"read as {best}, the maps agree with {percent[best]} of the labels of a sample, as now with {percent['']}"


def json_sha256(found: PredictionFiles) -> str:
    """Return the hash of the file that has the masks of all images, "" if there is none."""
    path = found.folder / DETECTRON2
    return hashlib.sha256(path.read_bytes()).hexdigest() if found.masks else ""


def describe_values(values: LabelMap, card: Card) -> str:
    """Return one sentence on how the values are read."""
    if values.encoding.name == INDEX:
        return f"values are class indices, 0 = {json.dumps(card.classes[0], ensure_ascii=False)}"
    means = values.encoding.means
    return f'values are those of the encoding "{values.encoding.name}"' + (f" ({means})" if means else "")
