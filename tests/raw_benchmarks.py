"""Tiny instances of the ten benchmarks in the form in which they are published, and the classes that they mean.

Every builder writes below ``root`` and returns ``{image id: class map}``: int array, -1 where a pixel is not scored.
The maps are computed here, apart from the code under test. Every raw value of a benchmark occurs.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

H, W = 48, 64
VOID = -1
DATASETS = Path(__file__).parents[1] / "datasets"


def mosaic(values, h=H, w=W, shift=0) -> np.ndarray:
    """int64[h,w] in which every value fills blocks of 2x2 pixels, in turn."""
    blocks = (np.arange((h // 2) * (w // 2)) + shift) % len(values)
    return np.kron(np.asarray(values)[blocks].reshape(h // 2, w // 2), np.ones((2, 2), np.int64))


def photo(path: Path, seed: int, h=H, w=W) -> None:
    """A smooth random picture, JPEG or PNG by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(small).resize((w, h), Image.BILINEAR).save(path)


def label(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wide = values.max() > 255
    image = Image.fromarray(values.astype(np.uint16 if wide else np.uint8))
    if palette:
        image = Image.frombytes("P", image.size, values.astype(np.uint8).tobytes())
        image.putpalette(voc_palette())
    image.save(path)


def voc_palette() -> list[int]:
    colours = []
    for index in range(256):
        bits = [(index >> k) & 1 for k in range(8)]
        colours += [
            sum(bits[3 * k + channel] << (7 - k) for k in range(3) if 3 * k + channel < 8) for channel in range(3)
        ]
    return colours


def lines(path: Path, texts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in texts))


def voc(root: Path, n: int = 3) -> dict[str, np.ndarray]:
    """VOC2012: palette PNG, 0 = background, 255 = border. Returns the 21 classes."""
    base, maps = root / "VOCdevkit/VOC2012", {}
    for k in range(n):
        name = f"2007_{k:06d}"
        raw = mosaic([*range(21), 255], shift=k)
        photo(base / f"JPEGImages/{name}.jpg", k)
        label(base / f"SegmentationClass/{name}.png", raw, palette=True)
        maps[name] = np.where(raw == 255, VOID, raw)
    photo(base / "JPEGImages/2007_999999.jpg", 9)  # of another split
    lines(base / "ImageSets/Segmentation/val.txt", maps)
    return maps


def pc_categories() -> dict[int, int]:
    """Category id of PASCAL in Detail -> class of pc60: the ids are 1-based positions in the list of 459."""
    names = (DATASETS / "classes/pc459.txt").read_text().splitlines()
    kept = (DATASETS / "classes/pc60.txt").read_text().splitlines()[1:]
    position = {name: number for number, name in enumerate(names, 1)}
    return {position[name]: number for number, name in enumerate(kept, 1)}


def rle(mask: np.ndarray) -> dict:
    """COCO's compressed run-length text of a mask."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    if flat[0]:
        runs = [0, *runs]
    text = ""
    for k, run in enumerate(runs):
        value = run - runs[k - 2] if k > 2 else run
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(bits + 48 + (32 if more else 0))
    return {"size": list(mask.shape), "counts": text}


def pascal_context(root: Path, n: int = 3) -> dict[str, np.ndarray]:
    """VOC2010 images and trainval_merged.json. Returns the 60 classes."""
    base, maps, images, annotations = root / "VOCdevkit/VOC2010", {}, [], []
    categories = pc_categories()
    for k in range(n + 1):  # the last is a training image
        name, phase = (f"2008_{k:06d}", "val") if k < n else ("2008_999999", "train")
        photo(base / f"JPEGImages/{name}.jpg", k)
        final = mosaic([0, *categories], shift=k)
        images.append({"image_id": k, "file_name": f"{name}.jpg", "height": H, "width": W, "phase": phase})
        first = next(iter(categories))  # drawn over everything but background, then over-drawn by the others
        for category in [first, *list(categories)[1:]]:
            mask = final == category if category != first else final > 0
            annotations.append({"image_id": k, "category_id": category, "segmentation": rle(mask)})
        if phase == "val":
            maps[name] = np.vectorize({0: 0, **categories}.get)(final)
    base.mkdir(parents=True, exist_ok=True)
    (base / "trainval_merged.json").write_text(json.dumps({"images": images[::-1], "annos_segmentation": annotations}))
    return maps


def pascal_context_459(root: Path, n: int = 3) -> dict[str, np.ndarray]:
    """VOC2010 images, the MATLAB label maps, and the split file. Returns the 459 classes."""
    base, maps = root / "VOCdevkit/VOC2010", {}
    (base / "trainval").mkdir(parents=True)
    for k in range(n + 1):
        name = f"2008_{k:06d}"
        photo(base / f"JPEGImages/{name}.jpg", k)
        raw = mosaic(range(1, 460), shift=150 * k)
        savemat(base / f"trainval/{name}.mat", {"LabelMap": raw.astype(np.uint16)}, do_compression=True)
        if k < n:
            maps[name] = raw - 1
    lines(base / "ImageSets/SegmentationContext/val.txt", maps)
    return maps


UNUSED_THINGS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)


def coco(root: Path, n: int = 3) -> dict[str, np.ndarray]:
    """val2017 images and stuffthingmaps as unpacked. Returns the 171 classes of COCO-Stuff."""
    used = [value for value in range(182) if value not in UNUSED_THINGS]
    maps = {}
    for k in range(n):
        name = f"{139 + k:012d}"
        photo(root / f"val2017/{name}.jpg", k)
        raw = mosaic([*used, 255], shift=60 * k)
        label(root / f"stuffthingmaps/val2017/{name}.png", raw)
        maps[name] = np.vectorize({**{v: i for i, v in enumerate(used)}, 255: VOID}.get)(raw)
    return maps


def coco_object_of(stuff: np.ndarray) -> np.ndarray:
    """81 classes from 171: things from 1 on, stuff and unlabeled pixels are background."""
    return np.where((stuff >= 0) & (stuff < 80), stuff + 1, 0)


CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def cityscapes(root: Path, n: int = 3) -> dict[str, np.ndarray]:
    """leftImg8bit and gtFine with label ids. Returns the 19 classes."""
    base, maps = root / "cityscapes", {}
    for k in range(n):
        name = f"{('frankfurt', 'lindau', 'munster')[k % 3]}_000000_{k:06d}"
        city = name.split("_")[0]
        photo(base / f"leftImg8bit/val/{city}/{name}_leftImg8bit.png", k)
        raw = mosaic(range(34), shift=k)
        label(base / f"gtFine/val/{city}/{name}_gtFine_labelIds.png", raw)
        maps[f"{city}/{name}"] = np.vectorize(lambda v: CITYSCAPES.index(v) if v in CITYSCAPES else VOID)(raw)
    return maps


def ade150(root: Path, n: int = 3) -> dict[str, np.ndarray]:
    """ADEChallengeData2016: 0 = other, 1..150. Returns the 150 classes."""
    base, maps = root / "ADEChallengeData2016", {}
    for k in range(n):
        name = f"ADE_val_{k + 1:08d}"
        photo(base / f"images/validation/{name}.jpg", k)
        raw = mosaic(range(151), shift=50 * k)
        label(base / f"annotations/validation/{name}.png", raw)
        maps[name] = raw - 1
    return maps


def ade_full(root: Path, n: int = 2, h: int = H, w: int = W) -> dict[str, np.ndarray]:
    """The full release with its index: codes in red and green, the instance in blue. Returns the 847 classes."""
    base, maps = root / "ADE20K_2021_17_01", {}
    table = [line.split() for line in (DATASETS / "tables/ade847.txt").read_text().splitlines() if line[0] != "#"]
    classes = {int(code): int(value) for code, value in table}
    foreign = [0, next(c for c in range(1, 3000) if c not in classes)]
    for k in range(n):
        name = f"ADE_val_{k + 1:08d}"
        folder = base / "images/ADE/validation/urban/street"
        photo(folder / f"{name}.jpg", k, h, w)
        codes = mosaic([*classes, *foreign], h, w, shift=500 * k)
        rgb = np.stack([codes // 256 * 10 + codes % 7, codes % 256, codes % 5], -1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"{name}_seg.png")
        Image.fromarray(rgb).save(folder / f"{name}_parts_1.png")
        maps[name] = np.vectorize(lambda code: classes.get(code, VOID))(codes)
    index = {
        "folder": ["ADE20K_2021_17_01/images/ADE/validation/urban/street"] * n,
        "filename": [f"{i}.jpg" for i in maps],
    }
    (base / "index_ade20k.pkl").write_bytes(pickle.dumps(index))
    return maps
