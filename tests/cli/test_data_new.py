"""``ovbench data new`` recognises folders as users have them; the card that it writes reads their classes."""

from __future__ import annotations

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from ovbench.config.load import resolve
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.evaluation.request import Job, check_request

NAMES = "sky\ndog; puppy\ncat\n"
COLOURS = {0: (70, 130, 180), 1: (255, 0, 0), 2: (0, 255, 0), 255: (0, 0, 0)}
TABLE = "name,r,g,b\nsky,70,130,180\ndog,255,0,0\ncat,0,255,0\nvoid,0,0,0\n"
LABEL = np.array([[0, 0, 1, 255], [0, 2, 1, 255], [0, 2, 2, 0]], np.uint8).repeat(3, 0).repeat(3, 1)
FOUND = np.where(LABEL == 255, 65535, LABEL.astype(np.uint16))


def in_colours(label):
    picture = np.zeros((*label.shape, 3), np.uint8)
    for value, colour in COLOURS.items():
        picture[label == value] = colour
    return picture


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write(root, image, label, stored=LABEL, count=3):
    """Write pairs of files named by patterns with ``{}``."""
    rng = np.random.default_rng(0)
    for number in range(count):
        save(rng.integers(0, 256, (*LABEL.shape, 3), np.uint8), root / image.format(number))
        save(stored, root / label.format(number))


def pairs(image, label, stored=LABEL, names=NAMES, file="classes.txt"):
    def build(root):
        write(root, image, label, stored)
        (root / file).write_text(names)

    return build


def with_train(root):
    pairs("images/val/{}.jpg", "annotations/val/{}.png")(root)
    write(root, "images/train/1{}.jpg", "annotations/train/1{}.png")
    (root / "images/train/readme.md").write_text("x")


def as_in_cityscapes(root):
    for split in ("train", "val"):
        for label in ("color", "instanceIds", "labelTrainIds"):
            stored = in_colours(LABEL) if label == "color" else LABEL
            write(root, f"leftImg8bit/{split}/ulm/ulm_{{:06d}}_leftImg8bit.png",
                  f"gtFine/{split}/ulm/ulm_{{:06d}}_gtFine_{label}.png", stored)  # fmt: skip
    (root / "classes.txt").write_text(NAMES)


def with_extra_images(root):
    pairs("photos/{}.jpg", "masks/mask_{}.png")(root)
    write(root, "photos/9{}.jpg", "elsewhere/x{}.txt.png", count=1)


FOLDERS = {
    "two folders": pairs("images/{}.jpg", "labels/{}.png"),
    "beside each other": pairs("a{}.jpg", "a{}.png"),
    "ending": pairs("data/{}.png", "data/{}_mask.png"),
    "beginning": pairs("rgb/img_{}.jpg", "seg/mask_{}.png"),
    "splits": with_train,
    "as in cityscapes": as_in_cityscapes,
    "more images": with_extra_images,
    "16 bits": pairs("images/{}.jpg", "labels/{}.tif", LABEL.astype(np.uint16)),
    "from 1": pairs("images/{}.jpg", "labels/{}.png", np.where(LABEL == 255, 0, LABEL + 1).astype(np.uint8)),
    "gaps": pairs("images/{}.jpg", "labels/{}.png", np.array([7, 11, 26, *[0] * 252, 255], np.uint8)[LABEL]),
    "colours, csv": pairs("images/{}.jpg", "labels/{}.png", in_colours(LABEL), TABLE, "class_dict.csv"),
    "colours, text": pairs(
        "images/{}.jpg", "labels/{}.png", in_colours(LABEL), "70 130 180 sky\n255 0 0 dog\n0 255 0 cat\n0 0 0 void\n",
        "label_colors.txt",
    ),
    "colours, labelmap": pairs(
        "images/{}.jpg", "labels/{}.png", in_colours(LABEL),
        "# label:color_rgb:parts:actions\nsky:70,130,180::\ndog:255,0,0::\ncat:0,255,0::\nvoid:0,0,0::\n",
        "labelmap.txt",
    ),
    "colours, json": pairs(
        "images/{}.jpg", "labels/{}.png", in_colours(LABEL),
        json.dumps({"classes": [{"title": name, "color": "#" + bytes(COLOURS[i]).hex()}
                                for i, name in ((0, "sky"), (1, "dog"), (2, "cat"), (255, "unlabeled"))]}), "meta.json",
    ),
}  # fmt: skip


@pytest.mark.quick(2)
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_recognised(folder, tmp_path, ovbench):
    root = tmp_path / "my photos"
    FOLDERS[folder](root)
    done = ovbench("data", "new", root, "--workers", 1)
    assert done.code == 0, done.err
    assert "recognised: 3 images with labels" in done.out and "my-photos: ok" in done.out
    card = load_card(str(root / "ovbench.toml"))
    assert (card.name, card.classes, card.image_count) == ("my-photos", ("sky", "dog", "cat"), 3)
    dataset = open_dataset(card)
    assert len(dataset) == 3
    np.testing.assert_array_equal(dataset.read_label(0), FOUND)
    again = ovbench("data", "new", root)
    assert again.code == 2 and "exists" in again.err


def test_an_archive_is_recognised(tmp_path, ovbench):
    write(tmp_path / "x", "images/{}.jpg", "labels/{}.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/names.txt").write_text(NAMES)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in (tmp_path / "x").rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path / "x"))
    done = ovbench("data", "new", tmp_path / "all.zip", "--classes", tmp_path / "lists/names.txt", "--json")
    assert done.code == 0, done.err
    assert done.json()["verified"]["ok"] and (tmp_path / "all-classes.txt").read_text().endswith(NAMES)
    np.testing.assert_array_equal(open_dataset(load_card(str(tmp_path / "all.toml"))).read_label(1), FOUND)


def test_what_is_missing_is_said_and_nothing_is_written(tmp_path, ovbench):
    write(tmp_path / "values", "images/{}.jpg", "labels/{}.png")
    write(tmp_path / "colours", "images/{}.jpg", "labels/{}.png", in_colours(LABEL))
    write(tmp_path / "photos", "images/{}.jpg", "others/{}.jpg")
    for name, file, content in (
        ("named", "val.csv", "image,label\nimages/0.jpg,labels/x.png\n"), ("packed", "all.tar.gz", ""),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(content)
    (tmp_path / "few.txt").write_text("sky\ndog\n")
    (tmp_path / "table.txt").write_text("sky #4682b4\ndog #ff0000\n")
    cases = [
        (("values",), 3, "the values 0, 1, 2, 255, but no list of class names was found"),
        (("values", "--classes", tmp_path / "few.txt"), 0, "numbered from 1"),
        (("colours",), 3, "pictures in 4 colours, most often #4682b4"),
        (("colours", "--classes", tmp_path / "table.txt"), 3, "have colours that table.txt does not list, first #00"),
        (("photos",), 3, "no images with labels recognised"),
        (("named",), 3, "val.csv lists files: write it as Parquet"),
        (("packed",), 3, "all.tar.gz is compressed: decompress it once"),
        (("packed/all.tar.gz",), 3, "a compressed archive can only be read from its start"),
        (("none",), 2, "is not a folder or archive"),
    ]
    for (name, *options), code, message in cases:
        done = ovbench("data", "new", tmp_path / name, *options)
        assert (done.code, message in done.out + done.err) == (code, True), (name, done.out, done.err)
        assert (tmp_path / name / "ovbench.toml").exists() == (code == 0)


def test_names_of_a_card_have_their_own_letters_and_a_doubt_is_said(tmp_path, ovbench):
    root = tmp_path / "my 海 & 🐟"
    write(root, "images/🐟{}.jpg", "labels/🐟{}.png", np.minimum(LABEL, 2))
    (root / "classes.txt").write_text("sky\ndog\ncat\nroad\ntree\n")
    done = ovbench("data", "new", root)
    assert done.code == 0, done.err
    text = (root / "ovbench.toml").read_text()
    assert "海" in text and "\\u" not in text and open_dataset(load_card(str(root / "ovbench.toml"))).items
    assert f"-d '{root}/ovbench.toml'" in done.err
    assert 'check this: if 0 is no class and 1 is "sky"' in done.out


def test_categories_of_coco_become_classes(tmp_path, ovbench):
    write(tmp_path, "valid/{}.jpg", "x/{}.txt.png")
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 12, "height": 9} for n in range(3)]
    square = [[1, 1, 5, 1, 5, 5, 1, 5]]
    content = {
        "images": images,
        "annotations": [{"id": 1, "image_id": n, "category_id": 2, "segmentation": square} for n in range(3)],
        "categories": [{"id": 0, "name": "animals", "supercategory": "none"},
                       {"id": 1, "name": "cat", "supercategory": "animals"},
                       {"id": 2, "name": "dog", "supercategory": "animals"}],
    }  # fmt: skip
    for split in ("train", "valid"):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    done = ovbench("data", "new", tmp_path, "--name", "pets")
    assert done.code == 0, done.err
    card = load_card(str(tmp_path / "ovbench.toml"))
    assert card.classes == ("background", "cat", "dog") and card.background == 0 and card.name == "pets"
    assert card.layouts[0].coco == "valid/_annotations.coco.json"
    label = open_dataset(card).read_label(0)
    assert label.sum() == 2 * 16 and set(np.unique(label)) == {0, 2}


def test_settings_of_a_benchmark_and_a_threshold(tmp_path, ovbench):
    pairs("images/{}.jpg", "labels/{}.png", names="background\ndog\ncat\n")(tmp_path)
    assert ovbench("data", "new", tmp_path, "--name", "pets").code == 0
    file = tmp_path / "ovbench.toml"
    first = check_request(Job(("clip",), (str(file),)))
    like = check_request(Job(("clip",), (str(file),), like="voc21"))
    assert first.cells[0].dataset == like.cells[0].dataset == "pets"
    wanted = resolve("clip", "voc21").protocol
    assert like.cells[0].protocol == wanted != first.cells[0].protocol
    text = file.read_text()
    file.write_text('like = "voc21"\nprob_thd = 0.3\n' + text)
    load_card.cache_clear()
    assert check_request(Job(("clip",), (str(file),))).cells[0].protocol.prob_thd == 0.3
    own = check_request(Job(("clip",), (str(file),), settings={"prob_thd": 0.5})).cells[0].protocol
    assert own == dataclasses.replace(wanted, prob_thd=0.5)
    for options, message in ((("--like", "pets"), "pets"), (("--like", "voc2"), 'did you mean "voc21"')):
        done = ovbench("eval", "-m", "clip", "-d", file, *options)
        assert done.code == 2 and message in done.err
    assert "for datasets of your own" in ovbench("eval", "-m", "clip", "-d", "mini", "--like", "voc21").err
    file.write_text("prob_thd = 0.3\n" + text.replace("background = 0\n", ""))
    load_card.cache_clear()
    assert 'needs "background"' in ovbench("eval", "-m", "clip", "-d", file).err


@pytest.mark.slow
def test_a_card_of_the_config_file_is_listed_and_used_by_its_name(tmp_path, ovbench, monkeypatch):
    pairs("images/{}.jpg", "labels/{}.png")(tmp_path / "photos")
    assert ovbench("data", "new", tmp_path / "photos").code == 0
    config = tmp_path / "config/ovbench/config.toml"
    config.parent.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    config.write_text(f'cards = ["{tmp_path}/photos/ovbench.toml", "{tmp_path}/gone.toml"]\n')
    rows = {row["name"]: row for row in ovbench("list", "datasets", "--json").json()}
    assert rows["photos"]["state"] == "verified" and rows["photos"]["found_images"] == 3
    assert rows["gone"]["state"] == "broken" and "no file" in rows["gone"]["broken"]
    assert ovbench("data", "verify", "photos").code == 0
    assert 'did you mean "photos"' in ovbench("data", "verify", "photo").err
