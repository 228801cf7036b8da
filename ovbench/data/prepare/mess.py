"""Convert the downloads of MESS to its prepared folders, by the rules of its own converters.

Six sets are compressed as JPEG a second time there (MHP, ATLANTIS, DRAM, CHASE DB1, CUB-200, FloodNet); the same is
done here, because the published figures have these inputs. Colours without a class keep their red channel for iSAID,
Potsdam and CWFID, with a warning; they are an error for SUIM and UAVid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ovbench.data.card import Card
from ovbench.data.coco_file import plain_name
from ovbench.data.decode import stored_pixels
from ovbench.data.find import read_split
from ovbench.data.integrity import BROKEN, BROKEN_ARRAYS
from ovbench.data.prepare import mess_tables as tables
from ovbench.data.prepare.convert import (
    ByColour,
    ByValue,
    full_values,
    image_step,
    in_order,
    label_step,
    not_zero,
    raw_values,
    stored_size,
    tile_steps,
    tiles_beside,
    write_image,
)
from ovbench.data.prepare.work import Step, first_found, link_all, save_label
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.files import read_json
from ovbench.utils.typed import OpenTyped, validate

SIDE = 1024  # of a tile


class Place(NamedTuple):
    """Where a set is read and written.

    Attributes:
        card: The card of the dataset.
        source: The folder of the download.
        images: Folder of the images that are written.
        labels: Folder of the labels that are written.
    """

    card: Card
    source: Path
    images: Path
    labels: Path

    def pair(self, name: str) -> tuple[Path, Path]:
        """Return the files of an image and its label."""
        layout = self.card.layouts[0]
        image, label = (pattern.rpartition("/")[2].replace("{id}", name) for pattern in (layout.image, layout.label))
        return self.images / image, self.labels / label


def steps(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of a set of MESS.

    Args:
        card: The card of the dataset.
        sources: The folders to search.
        root: The folder of the dataset.

    Raises:
        InputError: If the source has no image of the set.
    """
    layout = card.layouts[0]
    images, labels = (root / pattern.rpartition("/")[0] for pattern in (layout.image, layout.label))
    convert = CONVERTERS[card.name.removeprefix("mess-").partition("paxray-")[0] or "paxray"]
    return first_found(lambda source: convert(Place(card, source, images, labels)), card.name, sources, card.roots)


def _link(source: Path, target: Path) -> list[Step]:
    return [] if source.resolve() == target.resolve() else link_all([(source, target)])


def _bdd100k(at: Place) -> Iterator[Step]:
    for label in sorted(at.source.glob("labels/sem_seg/colormaps/val/*.png")):
        image, target = at.pair(label.stem)
        yield from _link(at.source / "images/10k/val" / f"{label.stem}.jpg", image)
        yield label_step(raw_values, label, target)


def _dark_zurich(at: Place) -> Iterator[Step]:
    for label in sorted(at.source.glob("gt/val/night/GOPR0356/*_gt_labelIds.png")):
        image, target = at.pair(label.name.removesuffix("_gt_labelIds.png"))
        yield from _link(at.source / "rgb_anon/val/night/GOPR0356" / image.name, image)
        yield label_step(_uncertain, label, target)


def _uncertain(path: Path) -> np.ndarray:
    """Read a label of Dark Zurich; pixels that its companion file marks are ignored."""
    companion = raw_values(path.with_name(path.name.replace("labelIds", "invGray")))
    values = np.where(companion == 255, 255, raw_values(path)).astype(np.uint8)
    return ByValue(tables.DARK_ZURICH).convert(values, path)


def _mhp_v1(at: Place) -> Iterator[Step]:
    for line in read_split(at.source / "test_list.txt") or ():
        name = Path(line).stem
        people = sorted((at.source / "annotations").glob(f"{name}*.png"))
        image, target = at.pair(name)
        yield image_step(at.source / "images" / f"{name}.jpg", image)
        yield Step(target, _maximum, (tuple(people),))


def _maximum(people: tuple[Path, ...], target: Path) -> None:
    """Write the largest class over the label files of all persons."""
    if not people:
        raise InputError("no label of a person", where=str(target))
    save_label(np.maximum.reduce([raw_values(path) for path in people]), target)


def _atlantis(at: Place) -> Iterator[Step]:
    for label in sorted(at.source.glob("masks/test/*/*.png")):
        image, target = at.pair(label.stem)
        yield image_step(at.source / "images/test" / label.parent.name / f"{label.stem}.jpg", image)
        yield label_step(ByValue(tables.ATLANTIS), label, target)


def _dram(at: Place) -> Iterator[Step]:
    for path in sorted(at.source.glob("test/**/*.jpg")):
        label = at.source / "labels" / path.relative_to(at.source / "test").with_suffix(".png")
        image, target = at.pair(f"{path.parent.name}_{path.stem}")
        yield image_step(path, image)
        yield label_step(ByValue(tables.DRAM), label, target)


def _tiles(at: Place, name: str, image: Path, label: Path, read_label: Callable[[Path], np.ndarray],
           read: Callable[[Path], np.ndarray] = stored_pixels) -> Iterator[Step]:  # fmt: skip
    cut = tiles_beside(stored_size(label), SIDE)
    named = [(tile, *at.pair(f"{name}_{number}")) for number, tile in enumerate(cut)]
    yield from tile_steps((image, read), (label, read_label), named)


def _isaid(at: Place) -> Iterator[Step]:
    read = ByColour(in_order(tables.ISAID), "red")
    for label in sorted(at.source.glob("raw_val/images/*_instance_color_RGB.png")):
        name = label.name.partition("_")[0]
        yield from _tiles(at, name, at.source / "val/images" / f"{name}.png", label, read)


def _isprs_potsdam(at: Place) -> Iterator[Step]:
    read = ByColour(in_order(tables.POTSDAM), "red", above=128)
    for area in tables.POTSDAM_AREAS:
        label = at.source / "Labels" / f"top_potsdam_{area}_label.tif"
        if label.is_file():
            image = at.source / "3_Ortho_IRRG" / f"top_potsdam_{area}_IRRG.tif"
            yield from _tiles(at, area, image, label, read)


def _worldfloods(at: Place) -> Iterator[Step]:
    for label in sorted(at.source.glob("test/gt/*.tif")):
        image = at.source / "test/S2" / label.name
        yield from _tiles(at, label.stem, image, label, _flood_classes, _infrared)


def _flood_classes(path: Path) -> np.ndarray:
    values = _tiff(path)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim == 3:
        raise InputError(f"the label has {min(values.shape)} bands", where=str(path), fix="give labels with one band")
    return ByValue({0: 255, 1: 0, 2: 1, 3: 2}).convert(values.astype(np.uint8), path)


def _infrared(path: Path) -> np.ndarray:
    """Return near infrared, red and green of a Sentinel-2 image with 13 bands, uint8 (H, W, 3)."""
    bands = _tiff(path)
    if bands.ndim != 3 or 13 not in (bands.shape[0], bands.shape[-1]):
        raise InputError(f"the image has the shape {bands.shape}, expected 13 bands", where=str(path))
    bands = np.moveaxis(bands, 0, -1) if bands.shape[0] == 13 else bands
    scaled = [bands[..., band] / sum(tables.SENTINEL[band]) for band in (7, 3, 1)]
    return (np.clip(np.stack(scaled, -1), 0, 1) * 255).astype(np.uint8)


def _tiff(path: Path) -> np.ndarray:
    import tifffile  # comes with scikit-image; only this set needs it

    try:
        return tifffile.imread(path)
    except BROKEN as error:
        what = f"cannot read the image: {first_line(error)}"
        raise InputError(what, where=str(path), fix="download it again") from None


def _floodnet(at: Place) -> Iterator[Step]:
    for label in sorted(at.source.glob("test/test-label-img/*_lab.png")):
        name = label.name.removesuffix("_lab.png")
        yield from _tiles(at, name, at.source / "test/test-org-img" / f"{name}.jpg", label, raw_values)


def _uavid(at: Place) -> Iterator[Step]:
    for label in sorted(at.source.glob("uavid_val/*/Labels/*.png")):
        image = label.parents[1] / "Images" / label.name
        name = f"{label.parents[1].name}_{label.stem}"
        yield from _tiles(at, name, image, label, ByColour(in_order(tables.UAVID)))


def _kvasir_instrument(at: Place) -> Iterator[Step]:
    for name in read_split(at.source / "test.txt") or ():
        image, target = at.pair(Path(name).stem)
        yield image_step(at.source / "images" / f"{image.stem}.jpg", image)
        yield label_step(full_values, at.source / "masks" / f"{image.stem}.png", target)


def _chase_db1(at: Place) -> Iterator[Step]:
    for path in sorted(at.source.glob("Image_*.jpg"))[8:]:
        image, target = at.pair(path.stem)
        yield image_step(path, image)
        yield label_step(not_zero, at.source / f"{path.stem}_1stHO.png", target)


def _cryonuseg(at: Place) -> Iterator[Step]:
    annotator = "Annotator 1 (biologist second round of manual marks up)"
    for path in sorted(at.source.glob("tissue images/*.tif")):
        image, target = at.pair(path.stem)
        yield image_step(path, image)
        yield label_step(full_values, at.source / annotator / annotator / "mask binary" / f"{path.stem}.png", target)


class PaxrayEntry(OpenTyped):
    """An image of PAXRay and its labels: files below the listing."""

    image: str
    target: str


class PaxrayList(OpenTyped):
    """The listing of PAXRay, ``paxray.json``."""

    test: list[PaxrayEntry]


def _paxray(at: Place) -> Iterator[Step]:
    listing = at.source / "paxray.json"
    if not listing.is_file():
        return
    channel = tables.PAXRAY[at.card.name.rpartition("-")[2]]
    for entry in validate(PaxrayList, read_json(listing), str(listing), fix="download it again").test:
        files = [at.source / plain_name(name, str(listing)) for name in (entry.image, entry.target)]
        image, target = at.pair(files[0].stem)
        yield Step(image, write_image, (files[0],))
        yield label_step(functools.partial(_channel, channel), files[1], target)


def _channel(channel: int, path: Path) -> np.ndarray:
    """Return one of the 166 label channels of PAXRay, uint8 (H, W)."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)[channel].astype(np.uint8)
    except BROKEN_ARRAYS as error:
        what = f"cannot read the label: {first_line(error)}"
        raise InputError(what, where=str(path), fix="download it again") from None


def _deepcrack(at: Place) -> Iterator[Step]:
    for label in sorted(at.source.glob("test_lab/*.png")):
        image, target = at.pair(label.stem)
        yield from _link(at.source / "test_img" / f"{label.stem}.jpg", image)
        yield label_step(full_values, label, target)


def _suim(at: Place) -> Iterator[Step]:
    for label in sorted(at.source.glob("TEST/masks/*.bmp")):
        image, target = at.pair(label.stem)
        yield from _link(at.source / "TEST/images" / f"{label.stem}.jpg", image)
        yield label_step(ByColour(in_order(tables.SUIM)), label, target)


def _cub_200(at: Place) -> Iterator[Step]:
    paths, split = (read_split(at.source / name) or [] for name in ("images.txt", "train_test_split.txt"))
    for line, chosen in zip(paths, split, strict=True):
        number, path = line.split(maxsplit=1)
        if chosen.split() != [number, "0"]:
            continue
        image, target = at.pair(Path(path).stem)
        label = at.source / "segmentations" / Path(path).with_suffix(".png")
        yield image_step(at.source / "images" / path, image)
        yield label_step(functools.partial(_bird, int(path[:3])), label, target)


def _bird(number: int, path: Path) -> np.ndarray:
    """Return the class of a bird where most annotators marked it, otherwise 0; uint8 (H, W)."""
    return np.where(raw_values(path) > 128, number, 0).astype(np.uint8)


def _cwfid(at: Place) -> Iterator[Step]:
    read = ByColour(in_order(((0, 0, 0), (255, 0, 0), (0, 255, 0))), "red")
    for number in tables.CWFID:
        image, target = at.pair(f"{number:03d}")
        label = at.source / "annotations" / f"{number:03d}_annotation.png"
        if label.is_file():
            yield from _link(at.source / "images" / image.name, image)
            yield label_step(read, label, target)


CONVERTERS: dict[str, Callable[[Place], Iterator[Step]]] = {
    "bdd100k": _bdd100k, "dark-zurich": _dark_zurich, "mhp-v1": _mhp_v1, "atlantis": _atlantis, "dram": _dram,
    "isaid": _isaid, "isprs-potsdam": _isprs_potsdam, "worldfloods": _worldfloods, "floodnet": _floodnet,
    "uavid": _uavid, "kvasir-instrument": _kvasir_instrument, "chase-db1": _chase_db1, "cryonuseg": _cryonuseg,
    "paxray": _paxray, "deepcrack": _deepcrack, "suim": _suim, "cub-200": _cub_200, "cwfid": _cwfid,
}  # fmt: skip
