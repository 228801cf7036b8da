"""Convert PASCAL Context: 59 classes and background from PASCAL in Detail's JSON, 459 from MATLAB label maps."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.data.card import Card
from ovbench.data.find import read_split
from ovbench.data.labels import read_table
from ovbench.data.prepare.mat5 import read_matrix
from ovbench.data.prepare.work import Step, find, link_all, nothing_found, save_label
from ovbench.data.rle import MOST_PIXELS, decode_rle
from ovbench.utils.errors import InputError
from ovbench.utils.files import write_bytes
from ovbench.utils.paths import shipped

DETAIL = ["trainval_merged.json", "VOC2010/trainval_merged.json", "VOCdevkit/VOC2010/trainval_merged.json"]
LABEL_MAPS = ["trainval", "VOC2010/trainval", "VOCdevkit/VOC2010/trainval", "."]
IMAGES = ["JPEGImages", "VOC2010/JPEGImages", "VOCdevkit/VOC2010/JPEGImages"]
SPLIT = "ImageSets/SegmentationContext/val.txt"
SPLITS = [SPLIT, f"VOC2010/{SPLIT}", f"VOCdevkit/VOC2010/{SPLIT}"]
CLASSES_459 = 459


def steps_60(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of ``SegmentationClassContext/ID.png`` (0 is background) and the split file of phase "val"."""
    path = next((p for s in sources for name in DETAIL if (p := s / name).is_file()), None)
    if path is None:
        raise nothing_found("trainval_merged.json", sources, DETAIL)
    images, annotations = _read_detail(path)
    ids = [Path(image["file_name"]).stem for image in images]
    table = read_table(shipped("datasets", "tables", "pc60.txt"))
    labels = [
        Step(
            root / "SegmentationClassContext" / f"{i}.png",
            convert_60,
            ((image["height"], image["width"]), annotations[image["image_id"]], table, f"{path.name}, {i}"),
        )
        for i, image in zip(ids, images, strict=True)
    ]
    return _image_steps(sources, root, ids) + labels + [Step(root / SPLIT, write_split, (sorted(ids),))]


def _read_detail(path: Path) -> tuple[list[dict], dict[Any, list]]:
    """Return the val images, and the (category, mask) pairs of each image in the order of the file."""
    try:
        with path.open(encoding="utf-8") as file:
            data = json.load(file)
        images = [image for image in data["images"] if image["phase"] == "val"]
        wanted = {image["image_id"] for image in images}
        annotations = defaultdict(list)
        for a in data["annos_segmentation"]:
            if a["image_id"] in wanted:
                annotations[a["image_id"]].append((int(a["category_id"]), a["segmentation"]))
        for image in images:
            _check_image(image, path)
    except OSError as error:
        raise InputError(f'cannot read "{path}": {error.strerror}') from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"malformed JSON: {error}", where=str(path), fix="download the file again") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"not PASCAL in Detail's trainval_merged.json: {error!r}", where=str(path)) from None
    if not images:
        raise InputError('no image of phase "val"', where=str(path), fix="take trainval_merged.json")
    return images, annotations


def _check_image(image: dict[str, Any], path: Path) -> None:
    """Refuse an image whose size or name is not valid."""
    h, w, name = image["height"], image["width"], image["file_name"]
    if not (type(h) is int and type(w) is int and h > 0 and w > 0 and h * w <= MOST_PIXELS):
        raise InputError(f"the image {name!r} has the invalid size {h!r} x {w!r}", where=str(path))
    if not isinstance(name, str) or Path(name).name != name or not Path(name).stem.strip("."):
        raise InputError(f"{name!r} is not a valid image name", where=str(path))


def convert_60(size: tuple[int, int], annotations: list, table: dict[int, int], where: str, target: Path) -> None:
    """Write one label: the masks of the categories in order, later ones on top.

    Args:
        size: (h, w) of the image.
        annotations: Pairs of category id and run-length mask.
        table: From category ids to classes.
        where: File and image id, for the message.
        target: The file to write.

    Raises:
        InputError: If a category is not in the table, or a mask is damaged.
    """
    label = np.zeros(size, np.uint8)
    for category, rle in annotations:
        if category not in table:
            raise InputError(
                f"category {category} is not one of the 59 classes",
                where=where,
                fix="take trainval_merged.json as published",
            )
        mask = decode_rle(rle, where=where, size=size)
        label[mask] = table[category]
    save_label(label, target)


def steps_459(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of ``annotations_detectron2/pc459_val/ID.tif`` (16 bits, 0..458) for the val split."""
    folder = find("label maps (ID.mat)", sources, LABEL_MAPS, "*.mat")
    there = {p.stem for p in folder.glob("*.mat")}
    own = next((s for base in (root, *sources) for name in SPLITS if (s := read_split(base / name)) is not None), None)
    shipped_ids = read_split(shipped("datasets", "splits", "pascal-context-val.txt"))
    ids = [i for i in shipped_ids or () if i in there] if own is None else own
    missing = [i for i in ids if i not in there]
    if missing or not ids:
        gap = (
            f"{len(missing)} of {len(ids)} label maps missing, first {missing[0]}.mat"
            if missing
            else "no val label map"
        )
        raise InputError(gap, where=str(folder), fix="unpack trainval.tar.gz of PASCAL Context again")
    folder_459 = root / "annotations_detectron2/pc459_val"
    labels = [Step(folder_459 / f"{i}.tif", convert_459, (folder / f"{i}.mat",)) for i in ids]
    split = [] if own is None else [Step(root / SPLIT, write_split, (ids,))]
    return _image_steps(sources, root, ids) + labels + split


def convert_459(path: Path, target: Path) -> None:
    """Write one label, LabelMap - 1.

    Args:
        path: The MATLAB file.
        target: The file to write.

    Raises:
        InputError: If the file is damaged or has a value outside 1..459.
    """
    raw = _label_map(path)
    if raw.dtype.kind not in "uif" or raw.ndim != 2 or not raw.size:
        raise InputError(f"LabelMap is not a table of numbers: {raw.dtype}, {raw.shape}", where=str(path))
    if not (raw.min() >= 1 and raw.max() <= CLASSES_459 and (raw == np.round(raw)).all()):
        raise InputError(f"LabelMap outside 1..{CLASSES_459}: {raw.min()}..{raw.max()}", where=str(path))
    save_label((raw.astype(np.int64) - 1).astype(np.uint16), target)


def _label_map(path: Path) -> np.ndarray:
    """Read the variable LabelMap of a MATLAB file, if its stated size is possible for an image."""
    try:
        shape, values = read_matrix(path.read_bytes(), "LabelMap", MOST_PIXELS)
    except OSError as error:
        raise InputError(f'cannot read "{path}": {error.strerror}', fix="unpack trainval.tar.gz again") from None
    except ValueError as error:
        raise InputError(f'cannot read "{path}": {error}', fix="unpack trainval.tar.gz again") from None
    return values.reshape(shape, order="F")


def write_split(ids: list[str], target: Path) -> None:
    """Write a split file, one id per line.

    Args:
        ids: The image ids.
        target: The file to write.
    """
    write_bytes(target, "".join(f"{i}\n" for i in ids).encode())


def _image_steps(sources: tuple[Path, ...], root: Path, ids: list[str]) -> list[Step]:
    folder = find("VOC2010 images", sources, IMAGES, "*.jpg")
    missing = [i for i in ids if not os.path.isfile(folder / f"{i}.jpg")]  # False also for a name that is too long
    if missing:
        gap = f"{len(missing)} of {len(ids)} images missing, first {missing[0]}.jpg"
        raise InputError(gap, where=str(folder), fix="unpack VOCtrainval_03-May-2010.tar again")
    return link_all([(folder / f"{i}.jpg", root / "JPEGImages" / f"{i}.jpg") for i in ids])
