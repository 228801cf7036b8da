"""Convert remote sensing downloads as SegEarth-OV does: other tiles, splits and classes than MESS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ovbench.data.card import Card
from ovbench.data.decode import stored_pixels
from ovbench.data.find import read_split
from ovbench.data.prepare import mess_tables as tables
from ovbench.data.prepare.convert import (
    ByColour,
    ImageTile,
    Reader,
    in_order,
    stored_size,
    tile_steps,
    tiles_inside,
)
from ovbench.data.prepare.work import Step, first_found, link_all

NO_CLASS = (0, 0, 0)  # the colour of raw value 0 in the ISPRS labels, which is ignored
ISPRS = {NO_CLASS: 0, **{colour: number + 1 for number, colour in enumerate(tables.POTSDAM)}}
VAIHINGEN_AREAS = (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)
UAVID = {
    (0, 0, 0): 0, (128, 0, 0): 1, (128, 64, 128): 2, (192, 0, 192): 3, (64, 0, 128): 3, (0, 128, 0): 4,
    (128, 128, 0): 5, (64, 64, 0): 6,
}  # fmt: skip


def steps(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of a remote sensing set.

    Args:
        card: The card of the dataset.
        sources: The folders to search.
        root: The folder of the dataset.

    Raises:
        InputError: If the source has no image of the set.
    """
    convert = CONVERTERS[card.name]
    return first_found(lambda one: convert(one, root / "img_dir", root / "ann_dir"), card.name, sources, card.roots)


def _loveda(source: Path, images: Path, labels: Path) -> Iterator[Step]:
    for part in ("Rural", "Urban"):
        for label in sorted(source.glob(f"Val/{part}/masks_png/*.png")):
            image = label.parents[1] / "images_png" / label.name
            yield from link_all([(image, images / "val" / label.name), (label, labels / "val" / label.name)])


def _openearthmap(source: Path, images: Path, labels: Path) -> Iterator[Step]:
    found = next((path for path in (source / "val.txt", *sorted(source.glob("*/val.txt"))) if path.is_file()), None)
    listed = set(read_split(found) or ()) if found else set()
    for label in sorted(source.glob("**/labels/*.tif")):
        if label.name in listed:
            image = label.parents[1] / "images" / label.name
            yield from link_all([(image, images / "val" / label.name), (label, labels / "val" / label.name)])


def _isprs(pairs: Iterator[tuple[str, Path, Path]], images: Path, labels: Path) -> Iterator[Step]:
    for name, image, label in pairs:
        cut = tiles_inside(stored_size(label), (512, 512), (512, 512))
        named = [(tile, f"{name}_{tile.left}_{tile.top}_{tile.left + 512}_{tile.top + 512}.png") for tile in cut]
        yield from _cut(image, label, ByColour(ISPRS, other=0), images / "val", labels / "val", named)


def _cut(
    image: Path,
    label: Path,
    read: Reader,
    images: Path,
    labels: Path,
    named: list[tuple[ImageTile, str]],
    suffix: str = "",
) -> Iterator[Step]:
    files = [(tile, images / name, labels / name.replace(".png", f"{suffix}.png")) for tile, name in named]
    yield from tile_steps((image, stored_pixels), (label, read), files)


def _potsdam(source: Path, images: Path, labels: Path) -> Iterator[Step]:
    pairs = (
        (area, source / "2_Ortho_RGB" / f"top_potsdam_{area}_RGB.tif", label)
        for area in tables.POTSDAM_AREAS
        for label in source.glob(f"5_Labels_all_noBoundary/top_potsdam_{area}_label_noBoundary.tif")
    )
    yield from _isprs(pairs, images, labels)


def _vaihingen(source: Path, images: Path, labels: Path) -> Iterator[Step]:
    pairs = (
        (f"area{area}", label.parents[1] / "top" / f"top_mosaic_09cm_area{area}.tif", label)
        for area in VAIHINGEN_AREAS
        for label in source.glob(f"**/top_mosaic_09cm_area{area}_noBoundary.tif")
    )
    found = ((name, image if image.is_file() else _anywhere(source, image.name), label) for name, image, label in pairs)
    yield from _isprs(found, images, labels)


def _anywhere(folder: Path, name: str) -> Path:
    return next(folder.glob(f"**/{name}"), folder / "images" / name)


def _isaid(source: Path, images: Path, labels: Path) -> Iterator[Step]:
    read = ByColour(in_order(tables.ISAID), other=0)
    for label in sorted(source.glob("**/Semantic_masks/**/*_instance_color_RGB.png")):
        folders = label.relative_to(source).parts
        if "train" in folders:  # both splits may be unpacked in one folder
            continue
        name, above = label.name.partition("_")[0], source.joinpath(*folders[: folders.index("Semantic_masks")])
        cut = tiles_inside(stored_size(label), (896, 896), (512, 512))
        image = _anywhere(above, f"{name}.png")
        yield from _cut(
            image, label, read, images / "val", labels / "val", _rows_first(name, cut), "_instance_color_RGB"
        )


def _uavid(source: Path, images: Path, labels: Path) -> Iterator[Step]:
    for label in sorted(source.glob("**/test_gt/*/Labels/*.png")):
        image = label.parents[1] / "Images" / label.name
        cut = tiles_inside(stored_size(label), (1280, 1080), (1280, 1080))
        named = _rows_first(f"{label.parents[1].name}_{label.stem}", cut)
        yield from _cut(image, label, ByColour(UAVID, other=0), images / "test", labels / "test", named)


def _rows_first(name: str, tiles: list[ImageTile]) -> list[tuple[ImageTile, str]]:
    return [(t, f"{name}_{t.top}_{t.top + t.height}_{t.left}_{t.left + t.width}.png") for t in tiles]


CONVERTERS: dict[str, Callable[[Path, Path, Path], Iterator[Step]]] = {
    "rs-loveda": _loveda, "rs-openearthmap": _openearthmap, "rs-potsdam": _potsdam, "rs-vaihingen": _vaihingen,
    "rs-isaid": _isaid, "rs-uavid": _uavid,
}  # fmt: skip
