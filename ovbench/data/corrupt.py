"""Corrupt images as ImageNet-C does (Hendrycks and Dietterich, ICLR 2019): fifteen corruptions, five severities.

The constants are the published ones, in the form for images of any size (package imagecorruptions, whose elastic
transform grows with the image). Widths of noise and blur are in pixels of the original image, so the same severity
changes a large image less. Labels stay as they are, also under the elastic transform, which moves edges a little.

The random numbers of an image come from its id, the corruption and the severity, so they do not depend on the
process, the order of the images or other images.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ovbench.config.corruptions import read_corruption
from ovbench.utils.errors import InputError
from ovbench.utils.extras import install_line

Rng = np.random.Generator
FROST_PHOTOS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
FROST_PACKAGE = "imagecorruptions"
GREY = (0.299, 0.587, 0.114)  # weights of red, green, blue


def corrupt_image(image: np.ndarray, spec: str, image_id: str) -> np.ndarray:
    """Corrupt an image.

    Args:
        image: uint8 (H, W, 3), RGB.
        spec: ``NAME:SEVERITY``; "" returns the image.
        image_id: Image id, the seed of the random numbers.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        InputError: If the photos of frost are not installed.
    """
    if not spec:
        return image
    name, severity = read_corruption(spec)
    seed = hashlib.sha256(f"{name}\0{severity}\0{image_id}".encode()).digest()
    make = MAKERS[name]
    made = make(image, severity - 1, np.random.default_rng(int.from_bytes(seed[:16], "big")))
    if made.dtype == np.uint8:
        return made
    return (np.clip(made, 0, 1) * 255).astype(np.uint8)  # truncated, as the published images


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


def _gaussian_noise(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    deviation = np.float32((0.08, 0.12, 0.18, 0.26, 0.38)[level])
    return _unit(image) + deviation * rng.standard_normal(image.shape, dtype=np.float32)


def _shot_noise(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    photons = (60, 25, 12, 5, 3)[level]
    return rng.poisson(_unit(image) * photons) / photons


def _impulse_noise(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    """Set a fraction of the values to black or white."""
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    drawn, white = rng.random((2, *image.shape), dtype=np.float32)
    return np.where(drawn < amount, np.where(white < 0.5, 255, 0), image).astype(np.uint8)


def _defocus_blur(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    radius, alias = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    side = np.arange(-max(radius, 8), max(radius, 8) + 1)
    disk = (side[:, None] ** 2 + side**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), (3, 3) if radius <= 8 else (5, 5), alias)
    return cv2.filter2D(_unit(image), -1, kernel)


def _glass_blur(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    """Copy each pixel from a near one, in reading order from the end, between two blurs."""
    sigma, reach, iterations = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    h, w = image.shape[:2]
    blurred = (_blur(_unit(image), sigma) * 255).astype(np.uint8)
    rows, columns = np.arange(h - reach, reach, -1), np.arange(w - reach, reach, -1)
    position = (rows[:, None] * w + columns).ravel()
    source = list(range(h * w))
    for _ in range(iterations if len(position) else 0):
        moves = rng.integers(-reach, reach, (len(position), 2)) @ np.array([w, 1])
        for here, move in zip(position.tolist(), moves.tolist(), strict=True):
            source[here] = source[here + move]
    shuffled = blurred.reshape(h * w, 3)[source].reshape(image.shape)
    return _blur(_unit(shuffled), sigma)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter  # slow to import, and most runs corrupt nothing

    return gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _motion_blur(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _moved(_unit(image), radius, sigma, rng.uniform(-45, 45))


def _moved(image: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Blur along a line from each pixel, with half a Gaussian of 2 radius + 1 weights."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    rows, columns = (np.rint(steps * f(np.deg2rad(angle))).astype(int) for f in (np.sin, np.cos))
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1), np.float32)
    np.add.at(kernel, (2 * radius + rows, 2 * radius + columns), weights / weights.sum())
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def _zoom_blur(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    sharp, factors = _unit(image), np.arange(1, end, step)
    total = sharp + sum(_zoomed(sharp, factor) for factor in factors)
    return total / (len(factors) + 1)


def _zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the centre of an image to its size, corner pixels onto corner pixels."""
    h, w = image.shape[:2]
    rows, columns = (_zoomed_axis(length, factor) for length in (h, w))
    inverse = np.array([[columns[0], 0, columns[1]], [0, rows[0], rows[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, inverse, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _zoomed_axis(length: int, factor: float) -> tuple[float, float]:
    """Return step and start in the image along an axis."""
    cut = math.ceil(length / factor)
    return (cut - 1) / max(round(cut * factor) - 1, 1), (length - cut) // 2


def _snow(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    mean, deviation, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]  # fmt: skip
    x = _unit(image)
    flakes = _zoomed(mean + deviation * rng.standard_normal(image.shape[:2], dtype=np.float32), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1).astype(np.float32)
    fallen = _moved(flakes, radius, sigma, rng.uniform(-135, -45))[..., None]
    pale = np.maximum(x, (x @ np.array(GREY, np.float32))[..., None] * 1.5 + 0.5)
    return kept * x + (1 - kept) * pale + fallen + fallen[::-1, ::-1]


def _frost(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    kept, added = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    photo = _photo(frost_photos()[rng.integers(len(FROST_PHOTOS))])
    (h, w), size = image.shape[:2], np.array(photo.shape[:2])
    factor = 1.1 * max(1.0, h / size[0], w / size[1])
    rows, columns = (int(n) for n in np.ceil(size * factor))
    large = cv2.resize(photo, (columns, rows), interpolation=cv2.INTER_CUBIC)
    top, left = rng.integers(rows - h), rng.integers(columns - w)
    return kept * _unit(image) + added * _unit(large[top : top + h, left : left + w])


def corruption_files(spec: str) -> list[Path]:
    """Return the files that a corruption needs.

    Args:
        spec: ``NAME:SEVERITY``; "" for none.

    Raises:
        InputError: If they are not installed.
    """
    return frost_photos() if spec.startswith("frost:") else []


def frost_photos() -> list[Path]:
    """Return the files of the published photos of frost, which an optional package holds.

    Raises:
        InputError: If the package is not installed.
    """
    found = importlib.util.find_spec(FROST_PACKAGE)  # its code is not imported
    folders = [Path(folder) / "frost" for folder in (found.submodule_search_locations or ())] if found else []
    files = [folder / name for folder in folders for name in FROST_PHOTOS]
    if not files or not all(path.is_file() for path in files):
        raise InputError(
            "the photos of frost are not installed", where="--corrupt frost",
            fix=f"install them: {install_line('corrupt')}",
        )  # fmt: skip
    return files


@cache
def _photo(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def _fog(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    amount, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    x = _unit(image)
    brightest = float(x.max())
    h, w = image.shape[:2]
    height = _plasma(1 << (max(h, w, 2) - 1).bit_length(), decay, rng)[:h, :w, None]
    return (x + amount * height) * (brightest / (brightest + amount))


def _plasma(side: int, decay: float, rng: Rng) -> np.ndarray:
    """Return a cloud with values 0 to 1, float (side, side), by the diamond-square algorithm on a torus."""
    field, wobble, step = np.zeros((side, side)), 100.0, side
    while step >= 2:
        half = step // 2

        def random(shape: tuple[int, ...], wobble: float = wobble) -> np.ndarray:
            return wobble * rng.uniform(-wobble, wobble, shape)

        corners = field[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        field[half::step, half::step] = (pairs + np.roll(pairs, -1, 1)) / 4 + random(corners.shape)
        centres = field[half::step, half::step]
        beside, below = np.roll(corners, -1, 1), np.roll(corners, -1, 0)
        field[::step, half::step] = (centres + np.roll(centres, 1, 0) + corners + beside) / 4 + random(corners.shape)
        field[half::step, ::step] = (centres + np.roll(centres, 1, 1) + corners + below) / 4 + random(corners.shape)
        step, wobble = half, wobble / decay
    field -= field.min()
    return (field / field.max()).astype(np.float32)


def _brightness(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    hsv = cv2.cvtColor(_unit(image), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _contrast(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    x = _unit(image)
    means = x.mean((0, 1), keepdims=True, dtype=np.float64)
    return (x - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + means


def _elastic_transform(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    h, w = image.shape[:2]
    strength = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[level]

    def displacement() -> np.ndarray:
        noise = rng.uniform(-0.005 * h, 0.005 * h, (h, w))
        return strength * gaussian_filter(noise, (0.01 * h, 0.01 * w), mode="reflect", truncate=3)

    rows, columns = np.mgrid[:h, :w] + np.stack([displacement(), displacement()])
    x, y = columns.astype(np.float32), rows.astype(np.float32)
    return cv2.remap(_unit(image), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _pixelate(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    factor = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    picture = Image.fromarray(image)
    small = [max(1, int(n * factor)) for n in picture.size]
    return np.array(picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST))


def _jpeg_compression(image: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return np.array(Image.open(buffer))


MAKERS: dict[str, Callable[[np.ndarray, int, Rng], np.ndarray]] = {
    "gaussian_noise": _gaussian_noise, "shot_noise": _shot_noise, "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur, "glass_blur": _glass_blur, "motion_blur": _motion_blur, "zoom_blur": _zoom_blur,
    "snow": _snow, "frost": _frost, "fog": _fog, "brightness": _brightness, "contrast": _contrast,
    "elastic_transform": _elastic_transform, "pixelate": _pixelate, "jpeg_compression": _jpeg_compression,
}  # fmt: skip
