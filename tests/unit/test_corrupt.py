"""Corruptions of ImageNet-C: what each does, and that a result depends on image id, name and severity alone."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ovbench.config.corruptions import CORRUPTIONS
from ovbench.config.load import resolve
from ovbench.config.nearest_published import nearest_published
from ovbench.data import corrupt
from ovbench.data.card import load_card
from ovbench.data.corrupt import MAKERS, corrupt_image
from ovbench.data.dataset import open_dataset
from ovbench.evaluation.images import corrupted, features_key
from ovbench.utils.errors import InputError, UsageError

RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
          "elastic_transform"}  # fmt: skip


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    """Photos of frost, which an optional package holds."""
    rng = np.random.default_rng(0)
    files = [tmp_path / name for name in corrupt.FROST_PHOTOS]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(file)
    monkeypatch.setattr(corrupt, "frost_photos", lambda: files)


def picture(height=60, width=84):
    """A smooth image with an edge."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 2, columns, 60 + 40 * np.sin(rows / 2)], -1) + 30
    image[:, width // 2 :] += 60
    return image.astype(np.uint8)


def test_every_corruption_has_code():
    assert tuple(MAKERS) == CORRUPTIONS and len(CORRUPTIONS) == 15


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_the_image_and_depends_on_its_id_only(name):
    image = picture()
    first = corrupt_image(image, f"{name}:3", "city/a")
    assert first.shape == image.shape and first.dtype == np.uint8 and (first != image).any()
    assert (image == picture()).all()  # the input is not changed
    np.random.default_rng(1)
    assert (corrupt_image(image, f"{name}:3", "city/a") == first).all()
    assert (corrupt_image(image, f"{name}:3", "city/b") != first).any() == (name in RANDOM)
    weak, strong = (np.abs(corrupt_image(image, f"{name}:{s}", "a").astype(int) - image).mean() for s in (1, 5))
    assert weak < strong or name == "fog"  # the darkest fog is not the one that changes most


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (9, 2)])
def test_small_images(size):
    for name in CORRUPTIONS:
        assert corrupt_image(picture(*size), f"{name}:5", "a").shape == (*size, 3)


def test_constants_of_the_publication():
    flat = np.full((200, 200, 3), 128, np.uint8)
    for level, deviation in enumerate((0.08, 0.12, 0.18, 0.26, 0.38), 1):
        noisy = corrupt_image(flat, f"gaussian_noise:{level}", "a") / 255
        inside = noisy[(noisy > 0) & (noisy < 1)]
        assert abs(np.median(np.abs(noisy - 128 / 255)) - 0.6745 * deviation) < 0.01 and len(inside)
    changed = corrupt_image(flat, "impulse_noise:4", "a")
    assert abs((changed == 0).mean() - 0.085) < 0.004 and abs((changed == 255).mean() - 0.085) < 0.004
    shot = corrupt_image(flat, "shot_noise:5", "a") / 255  # 3 photons at full light
    assert set(np.rint(np.unique(shot) * 3)) == {0, 1, 2, 3} and abs((shot == 0).mean() - np.exp(-3 * 128 / 255)) < 0.01
    bright = corrupt_image(flat, "brightness:2", "a")
    assert abs(int(bright[0, 0, 0]) - 179) <= 1  # 128 / 255 + 0.2
    two = np.concatenate([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 200, np.uint8)])
    grey = corrupt_image(two, "contrast:1", "a")  # 100 -+ 0.4 * 100, truncated
    assert grey[0, 0, 0] in (59, 60) and grey[-1, 0, 0] in (139, 140)
    assert len(np.unique(corrupt_image(picture(40, 40), "pixelate:5", "a")[:, 0, 0])) == 10  # a quarter of the rows
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 20] = 255
    assert (corrupt_image(dot, "defocus_blur:1", "a")[..., 0] > 0).sum() in range(25, 38)  # a disk of radius 3


def test_motion_blur_and_fog_keep_the_light():
    flat = np.full((64, 64, 3), 100, np.uint8)
    for name in ("motion_blur", "zoom_blur", "glass_blur", "defocus_blur", "elastic_transform"):
        assert np.abs(corrupt_image(flat, f"{name}:5", "a").astype(int) - 100).max() <= 1, name
    fog = corrupt_image(flat, "fog:3", "a")
    assert fog.std() > 5 and (fog[..., 0] == fog[..., 2]).all()


@pytest.mark.slow
def test_another_process_has_the_same_pixels():
    code = """
import hashlib, numpy as np
from ovbench.data.corrupt import corrupt_image
image = np.arange(3 * 32 * 24, dtype=np.int64).reshape(32, 24, 3).astype(np.uint8)
names = ("gaussian_noise", "glass_blur", "snow", "fog", "elastic_transform")
print(hashlib.sha256(b"".join(corrupt_image(image, f"{n}:2", "x").tobytes() for n in names)).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    image = np.arange(3 * 32 * 24, dtype=np.int64).reshape(32, 24, 3).astype(np.uint8)
    names = ("gaussian_noise", "glass_blur", "snow", "fog", "elastic_transform")
    mine = b"".join(corrupt_image(image, f"{n}:2", "x").tobytes() for n in names)
    assert done.stdout.strip() == hashlib.sha256(mine).hexdigest()


def test_a_corruption_is_part_of_the_cell_and_a_deviation():
    clean, foggy = (resolve("corrclip", "voc21", given) for given in ({}, {"corrupt": "fog:3"}))
    assert clean.digest() != foggy.digest() and "corrupt" not in clean.as_dict()["protocol"]
    told = nearest_published(foggy.as_dict(), "correct")
    assert "corrupt=fog:3" in told.sentence() and told.sources == ()
    for text, what in (("fgo:3", 'did you mean "fog"'), ("fog", "no severity"), ("fog:6", "no severity")):
        with pytest.raises(UsageError, match=what):
            resolve("corrclip", "voc21", {"corrupt": text})
    with pytest.raises(UsageError, match="only an evaluation"):
        foggy.refuse_evaluation_settings()


def test_the_dataset_reads_corrupted_images_and_clean_labels():
    data = open_dataset(load_card("mini"))
    cell = resolve("clip", "mini", {"corrupt": "contrast:5"})
    foggy = corrupted(data, cell)
    assert corrupted(data, resolve("clip", "mini")) is data
    clean, changed = data.read(0), foggy.read(0)
    assert (changed.image == corrupt_image(clean.image, "contrast:5", clean.id)).all()
    assert (changed.label == clean.label).all() and changed.image_file == clean.image_file
    assert features_key(cell, data) != features_key(resolve("clip", "mini"), data)


def test_precomputed_maps_of_clean_images_are_refused():
    cell = resolve("corrclip", "mini", {"corrupt": "fog:1", "regions": "precomputed", "regions.folder": "maps"})
    with pytest.raises(UsageError, match="without corruption"):
        corrupted(open_dataset(load_card("mini")), cell)
    assert dataclasses.asdict(cell.protocol)["corrupt"] == "fog:1"


def test_frost_needs_its_photos(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(corrupt, "FROST_PACKAGE", "no_such_package_of_photos")
    with pytest.raises(InputError, match=r"pip install .*corrupt"):
        corrupt.corruption_files("frost:1")
    assert corrupt.corruption_files("fog:1") == [] and corrupt.corruption_files("") == []
