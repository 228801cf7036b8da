"""Convert the full ADE20K release (2021_17_01): object codes in RGB to 847 classes, at the size that is scored."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ovbench.data.card import Card
from ovbench.data.integrity import BROKEN, check_png, reason_of
from ovbench.data.labels import read_table
from ovbench.data.prepare.work import Step, find, save_label
from ovbench.utils.errors import InputError
from ovbench.utils.files import replacing
from ovbench.utils.paths import shipped

FOLDERS = ["images/ADE/validation", "ADE20K_2021_17_01/images/ADE/validation"]
SHORT_SIDE = 512
VOID = 65535
SEGMENTATION = "_seg.png"


def steps(card: Card, sources: tuple[Path, ...], root: Path, *, image_format: str = "jpg") -> list[Step]:
    """Return the steps for every validation image: the image and its 16-bit label.

    With ``image_format`` "jpg" a resized image is compressed again, as in the published preparation; "png" is lossless.
    """
    folder = find(f"full ADE20K labels (PLACE/SCENE/*{SEGMENTATION})", sources, FOLDERS, f"**/*{SEGMENTATION}")
    made = []
    for path in sorted(folder.glob(f"**/*{SEGMENTATION}")):
        stem = path.name.removesuffix(SEGMENTATION)
        image = path.with_name(f"{stem}.jpg")
        if not image.is_file():
            raise InputError(f'no image "{image}" beside its label', fix="unpack the release again")
        made += [
            Step(root / "images_detectron2/validation" / f"{stem}.{image_format}", convert_image, (image,)),
            Step(root / "annotations_detectron2/validation" / f"{stem}.tif", convert_label, (path,)),
        ]
    return made


def prepared_size(h: int, w: int) -> tuple[int, int]:
    """Return the size after preparation: if both sides exceed 512, the shorter one becomes 512.

    Args:
        h: Height in pixels.
        w: Width in pixels.

    Returns:
        (h, w).

    Example:
        >>> prepared_size(1536, 2048), prepared_size(500, 900)
        ((512, 683), (500, 900))
    """
    if min(h, w) <= SHORT_SIDE:
        return h, w
    if w >= h:
        return SHORT_SIDE, round(w / h * SHORT_SIDE)
    return round(h / w * SHORT_SIDE), SHORT_SIDE


def convert_image(path: Path, target: Path) -> None:
    """Write an image at the prepared size (OpenCV, bilinear); a grey image stays grey; JPEG has PIL's default quality.

    Args:
        path: The image of the release.
        target: The file to write.
    """
    image = _decode(path)
    resized = cv2.resize(image, prepared_size(*image.shape[:2])[::-1], interpolation=cv2.INTER_LINEAR)
    with replacing(target, durable=False) as temporary:  # decoding notices a damaged file
        Image.fromarray(resized).save(temporary, format="JPEG" if target.suffix == ".jpg" else "PNG")


def convert_label(path: Path, target: Path) -> None:
    """Write the uint16 classes of the codes ``R // 10 * 256 + G``, resized before the mapping (OpenCV, nearest).

    Args:
        path: The label of the release.
        target: The file to write.

    Raises:
        InputError: If the label is not an RGB image.
    """
    rgb = _decode(path)
    if rgb.ndim != 3:
        raise InputError(f'the label "{path}" has one channel, not RGB', fix="unpack the release again")
    codes = rgb[..., 0].astype(np.int32) // 10 * 256 + rgb[..., 1]
    resized = cv2.resize(codes, prepared_size(*codes.shape)[::-1], interpolation=cv2.INTER_NEAREST)
    save_label(_code_table()[resized], target)


@functools.cache
def _code_table() -> np.ndarray:
    table = np.full(65536, VOID, np.uint16)
    for code, value in read_table(shipped("datasets", "tables", "ade847.txt")).items():
        table[code] = VOID if value is None else value
    return table


def _decode(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
        check_png(data, path, "label")
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image if image.mode in ("RGB", "L") else image.convert("RGB"))
    except BROKEN as error:
        raise InputError(f'cannot read "{path}": {reason_of(error)}', fix="unpack the release again") from None
