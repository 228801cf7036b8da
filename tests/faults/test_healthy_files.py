"""Healthy files that mean something else: each is read for what it means, or refused with the cause before a run."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from ovbench.data.card import load_card
from ovbench.data.classes import read_classes_file, refuse_other_order
from ovbench.data.dataset import open_dataset
from ovbench.data.find import data_roots
from ovbench.data.verify import verify
from ovbench.regions.provider import open_regions
from ovbench.utils.errors import InputError

SIZE = (12, 16)
NAMES = ("sky", "grass", "water")


@pytest.fixture
def own(tmp_path):
    """``own(classes, image pattern, label pattern, more)`` writes a card and returns it."""
    load_card.cache_clear()

    def write(classes=NAMES, image="images/{id}.png", label="labels/{id}.png", top="", layout="", tables=""):
        load_card.cache_clear()
        (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
        head = f'title = "T"\nclasses = "classes.txt"\n{top}\n[[layout]]\n'
        text = f'{head}image = "{image}"\nlabel = "{label}"\n{layout}\n{tables}'
        (tmp_path / "own.toml").write_text(text)
        return load_card(str(tmp_path / "own.toml"))

    return write


@pytest.fixture
def put(tmp_path):
    """``put(path, values)`` saves an array; None is a photograph."""

    def save(path, values=None, **options):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        if values is None:
            values = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(np.asarray(values)).save(path, **options)
        return path

    return save


def label(*values, dtype=np.uint8):
    """The values in turn, as columns."""
    return np.resize(np.array(values, dtype), SIZE)


def pairs(put, ids="abc", values=(0, 1, 2)):
    for i in ids:
        put(f"images/{i}.png")
        put(f"labels/{i}.png", label(*values))


def ids(card, root):
    return [item.id for item in open_dataset(card, root).items]


# images and labels


def test_suffixes_of_one_format_are_the_same(own, put, tmp_path):
    for name in ("a.jpg", "b.JPG", "c.jpeg", "d.JPEG"):
        put(f"images/{name}", format="JPEG")
        put(f"labels/{name[0]}.PNG", label(0, 1, 2), format="PNG")
    dataset = open_dataset(own(image="images/{id}.jpg"), tmp_path)
    assert [item.id for item in dataset.items] == list("abcd") and dataset.read(1).id == "b"


def test_other_suffixes_are_not_dropped_without_a_word(own, put, tmp_path):
    pairs(put, "ab")
    put("images/c.jpg")
    dataset = open_dataset(own(), tmp_path)
    assert len(dataset) == 2 and any("c.jpg" in line and "left out" in line for line in dataset.remarks)
    put("labels/c.png", label(0, 1, 2))
    with pytest.raises(InputError, match=r"1 labels have no image.*c\.jpg is beside the images"):
        open_dataset(own(), tmp_path)


def test_two_files_of_one_id_are_refused(own, put, tmp_path):
    pairs(put, "ab")
    put("images/a.PNG", format="PNG")
    with pytest.raises(InputError, match='have the same image id, "a"'):
        open_dataset(own(), tmp_path)


def test_pairing_looks_in_both_directions(own, put, tmp_path):
    pairs(put)
    put("labels/d.png", label(0))
    with pytest.raises(InputError, match=r'1 labels have no image, first .*d\.png.*ids = "images"'):
        open_dataset(own(), tmp_path)
    assert ids(own(layout='ids = "images"'), tmp_path) == list("abc")
    put("images/e.png")
    with pytest.raises(InputError, match=r'1 of 4 labels missing, first .*e\.png.*ids = "labels"'):
        open_dataset(own(), tmp_path)
    (tmp_path / "labels/d.png").unlink()
    assert ids(own(layout='ids = "labels"'), tmp_path) == list("abc")


def test_masks_beside_images(own, put, tmp_path):
    for i in "abc":
        put(f"{i}.png"), put(f"{i}_mask.png", label(0, 1, 2))
    assert ids(own(image="{id}.png", label="{id}_mask.png"), tmp_path) == list("abc")
    for i in "abc":
        (tmp_path / f"{i}.png").rename(tmp_path / f"{i}_image.png")
        (tmp_path / f"{i}_mask.png").rename(tmp_path / f"{i}.png")
    assert ids(own(image="{id}_image.png", label="{id}.png"), tmp_path) == list("abc")
    with pytest.raises(InputError, match='"image" and "label" are the same'):
        own(image="{id}.png", label="{id}.png")


def test_a_link_to_its_own_folder_adds_nothing(own, put, tmp_path):
    pairs(put)
    (tmp_path / "images/loop").symlink_to(".")
    (tmp_path / "labels/deep").mkdir()
    (tmp_path / "labels/deep/up").symlink_to("../..")
    (tmp_path / "images/itself").symlink_to("itself")
    assert ids(own(), tmp_path) == list("abc")


def test_a_name_that_is_not_utf8_is_refused(own, put, tmp_path):
    pairs(put)
    for kind in ("images", "labels"):
        os.rename(tmp_path / kind / "b.png", os.fsencode(tmp_path / kind) + b"/caf\xe9.png")
    for check in (lambda: open_dataset(own(), tmp_path), lambda: verify(own(), tmp_path)):
        with pytest.raises(InputError, match=r"caf\\udce9.png\" is not UTF-8") as refused:
            check()
        str(refused.value).encode()


def test_advice_names_the_card_as_the_command_line_does(own, put, tmp_path, ovbench):
    pairs(put)
    (tmp_path / "labels/b.png").unlink()
    done = ovbench("eval", "-m", "clip", "-d", tmp_path / "own.toml" if own() else "", "--data-root", tmp_path)
    advice = done.err.split("run: ovbench ")[1].split(",")[0].split()
    assert done.code == 3 and advice[:2] == ["data", "verify"]
    again = ovbench(*advice, "--data-root", tmp_path)
    assert again.code == 3 and "images have no label" in again.err


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa\nb\nc\n", "a\r\nb\r\nc\r\n", "a.png\nb.png\nc.png", "images/a.png\nimages/b.png\nimages/c.png",
        "/images/a.png /labels/a.png\n/images/b.png /labels/b.png\n/images/c.png /labels/c.png",
        "a.png,labels/a.png\nb.png,labels/b.png\nc.png,labels/c.png", "\n a \n\nb\n c",
    ],
)  # fmt: skip
def test_split_files_that_are_read(own, put, tmp_path, text):
    pairs(put, "abcd")
    (tmp_path / "val.txt").write_bytes(text.encode())
    assert ids(own(layout='ids = "val.txt"'), tmp_path) == list("abc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", "1 of 2 ids listed more than once, first a"),
        ("a\na.png\n", "1 of 1 ids listed more than once, first a"),
        ("images/a.png other/a.png\n", r"val.txt, line 1"),
        ("a\nb  1\n", r"val.txt, line 2"),
        ("0001\n0002\n", 'no line names an image of .*the first is "0001"'),
        ("a\nz\n", "1 of 2 images missing"),
    ],
)
def test_split_files_that_are_refused(own, put, tmp_path, text, message):
    pairs(put)
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        open_dataset(own(layout='ids = "val.txt"'), tmp_path)


@pytest.mark.parametrize("value", ["5", "[1, 2]", '{a = "b"}', "true"])
def test_a_config_file_of_another_form(tmp_path, monkeypatch, value):
    (tmp_path / "ovbench").mkdir()
    (tmp_path / "ovbench/config.toml").write_text(f"data_root = {value}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("OVBENCH_DATA", raising=False)
    with pytest.raises(InputError, match='"data_root" must be a text'):
        data_roots()


# cards


def test_with_more_than_255_classes_255_is_a_class(own, put, tmp_path):
    names = [f"thing {k}" for k in range(300)]
    put("images/a.png"), put("labels/a.png", label(3, 255, 299, 65535, dtype=np.uint16))
    read = open_dataset(own(names), tmp_path).read_label(0)
    assert set(np.unique(read).tolist()) == {3, 255, 299, 65535}
    for count in (255, 256):
        void = own([f"n{k}" for k in range(count)]).encodings[0].void
        assert void == ((255,) if count == 255 else (65535,))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("[encoding.e]\nvoid = [255, 1]\n", 'void|1 is ignored, but it is the value of class 1, "grass"'),
        ("[encoding.e]\nshift = 254\nvoid = [255]\n", '255 is ignored, but it is the value of class 1, "grass"'),
        ("[encoding.e]\nvalues = [0, 127, 255]\nvoid = [255]\n", '255 is ignored.* class 2, "water"'),
        ("[encoding.e]\nvalues = [0, 255]\n", "one raw value for each of the 3 classes"),
        ("[encoding.e]\nvalues = [0, 255, 255]\n", "one raw value for each of the 3 classes"),
        ("[encoding.e]\nvalues = [0, 1, 2]\nshift = 1\n", "stands alone"),
        ("[encoding.e]\nshift = 65534\n", "label values are 0..65535"),
        ("[encoding.e]\nvoid = [-1]\n", r"encoding.e.void\[0\].*0 or more, got -1"),
    ],
)
def test_cards_that_contradict_themselves(own, tables, message):
    with pytest.raises(InputError, match=message):
        own(tables=tables)


def test_void_in_a_table_must_not_hide_a_class(own, put, tmp_path):
    pairs(put)
    (tmp_path / "t.txt").write_text("0 0\n1 1\n2 2\n255 -\n")
    card = own(tables='[encoding.e]\ntable = "t.txt"\nvoid = [2]\n')
    with pytest.raises(InputError, match="the card ignores the value 2, but the table maps it to class 2"):
        open_dataset(card, tmp_path)


@pytest.mark.slow
def test_the_limit_of_classes_is_stated(own):
    with pytest.raises(InputError, match="70000 classes; labels have 16 bits, of which 65533 values can be classes"):
        own([f"c{k}" for k in range(70000)])


def test_two_classes_of_one_name(own):
    for names in (("wall", "sky", "wall"), ("Wall", "sky", "wall "), ("traffic  light", "traffic light", "sky")):
        with pytest.raises(InputError, match="two classes have the same name"):
            own(names)


# what a sample of the labels tells


def test_masks_of_0_and_255(own, put, tmp_path):
    pairs(put, values=(0, 255))
    with pytest.raises(InputError, match=r"only 0 and 255.*values = \[0, 255\]"):
        open_dataset(own(("background", "sky")), tmp_path)
    assert "mask of 0 and 255" in {p.kind for p in verify(own(("background", "sky")), tmp_path).problems}
    mask = open_dataset(own(("background", "sky"), tables="[encoding.mask]\nvalues = [0, 255]\n"), tmp_path)
    assert set(np.unique(mask.read_label(0))) == {0, 1} and "every class occurs" in mask.remarks[0]
    stated = open_dataset(own(("background", "sky"), tables="[encoding.index]\nvoid = [255]\n"), tmp_path)
    assert "1 of 2 classes never occur (sky)" in stated.remarks[0] and "50.0% of the pixels" in stated.remarks[0]


def test_labels_without_a_readable_value_stop_the_run_before_it_starts(own, put, tmp_path):
    pairs(put, values=(7,))
    with pytest.raises(InputError, match=r"3 labels have values outside 0..2 and not the ignore value 255: 7"):
        open_dataset(own(), tmp_path)
    put("labels/a.png", label(0, 1, 2)), put("labels/b.png", label(0, 1, 2))
    dataset = open_dataset(own(), tmp_path)  # one odd file fails alone
    assert any("values outside" in line for line in dataset.remarks)
    with pytest.raises(InputError, match="label value 7 outside"):
        dataset.read(2)


def test_jpeg_labels_are_refused_before_a_run(own, put, tmp_path):
    for i in "ab":
        put(f"images/{i}.png"), put(f"labels/{i}.jpg", label(0, 1, 2))
    card = own(label="labels/{id}.jpg")
    with pytest.raises(InputError, match="stored as JPEG, which does not keep class values"):
        open_dataset(card, tmp_path)
    assert {p.kind for p in verify(card, tmp_path).problems if p.is_error} == {"lossy label"}


def test_one_bit_labels(own, put, tmp_path):
    bits = label(0, 1).astype(bool)
    for i in "ab":
        put(f"images/{i}.png"), put(f"labels/{i}.png", bits)
    assert set(np.unique(open_dataset(own(("no", "yes")), tmp_path).read_label(0))) == {0, 1}
    with pytest.raises(InputError, match="too few for 3 classes"):
        open_dataset(own(), tmp_path)
    put("labels/b.png", label(0, 1, 255))  # the other was made small: its 1 may have been 255
    with pytest.raises(InputError, match="1 labels have 1 bit beside others that have more"):
        open_dataset(own(("no", "yes")), tmp_path)


def test_renumbered_palettes(own, put, tmp_path):
    def palette(name, colours):
        put(f"images/{name}.png")
        picture = Image.fromarray(label(0, 1, 2))
        picture.putpalette([v for colour in colours for v in colour])
        (tmp_path / "labels").mkdir(exist_ok=True)
        picture.save(tmp_path / f"labels/{name}.png")

    voc = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    palette("a", voc), palette("b", voc)
    open_dataset(own(), tmp_path)
    palette("b", [(0, 128, 0), (0, 0, 0), (128, 0, 0)])
    with pytest.raises(InputError, match=r"value 0 is the colour \(0, 0, 0\) in a and \(0, 128, 0\) in b"):
        open_dataset(own(), tmp_path)


def test_a_renumbered_palette_outside_the_sample_fails_alone(own, put, tmp_path, monkeypatch):
    for name, swapped in (("a", False), ("b", False), ("c", True)):
        put(f"images/{name}.png")
        picture = Image.fromarray(label(0, 1, 2))
        picture.putpalette([128, 0, 0, 0, 0, 0, 0, 128, 0] if swapped else [0, 0, 0, 128, 0, 0, 0, 128, 0])
        (tmp_path / "labels").mkdir(exist_ok=True)
        picture.save(tmp_path / f"labels/{name}.png")
    monkeypatch.setattr("ovbench.data.sample.SAMPLE", 2)
    dataset = open_dataset(own(), tmp_path)
    dataset.read(0)
    with pytest.raises(InputError, match="a program has renumbered its palette"):
        dataset.read(2)


def test_sixteen_bit_images_are_refused_or_scaled(own, put, tmp_path):
    import cv2

    values = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    pairs(put, "ab")
    for i in "ab":
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), values.astype(np.uint16) * 16)
    with pytest.raises(InputError, match=r"16 bits, but its largest value is \d+ of 65535.*white = 4095"):
        open_dataset(own(), tmp_path)
    assert "dim image" in {p.kind for p in verify(own(), tmp_path).problems}
    dataset = open_dataset(own(top="white = 4080"), tmp_path)
    np.testing.assert_array_equal(dataset.read(0).image, values[..., ::-1])
    assert any("16 bits" in line for line in dataset.remarks)


def test_orientation_tags_are_mentioned_once(own, put, tmp_path):
    pairs(put)
    tag = Image.Exif()
    tag[0x0112] = 3
    upright = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    put("images/a.png", upright[::-1, ::-1].copy(), exif=tag)
    dataset = open_dataset(own(), tmp_path)
    assert sum("1 of 3 images carry an orientation tag" in line for line in dataset.remarks) == 1
    np.testing.assert_array_equal(dataset.read(0).image, upright)


def test_the_sample_says_what_is_read(own, put, tmp_path):
    pairs(put, values=(0, 1, 255, 255))
    line = open_dataset(own(), tmp_path).remarks[0]
    assert "class indices, 255 = ignored" in line and "1 of 3 classes never occur (water)" in line and "50.0%" in line


# class lists


@pytest.mark.parametrize(
    "text",
    [
        "sky\ngrass\nwater\n", "\ufeffsky\r\ngrass\r\nwater", "# names\nsky\n\ngrass\nwater", "0 sky\n1 grass\n2 water",
        "1: sky\n2: grass\n3: water", "0,sky\n1,grass\n2,water", "sky,0\ngrass,1\nwater,2",
        "sky\t0\ngrass\t1\nwater\t2",
        "0. sky\n1. grass\n2. water", "sky 0\ngrass 1\nwater 2", '["sky", "grass", "water"]',
        '{"0": "sky", "1": "grass", "2": "water"}', '{"2": "water", "0": "sky", "1": "grass"}',
        '{"sky": 0, "water": 2, "grass": 1}', '{"id2label": {"0": "sky", "1": "grass", "2": "water"}}',
        '[{"name": "sky"}, {"name": "grass"}, {"name": "water"}]', '[\n "sky",\n "grass",\n "water"\n]',
        '{"label2id": {"sky": 0, "water": 2, "grass": 1}}', '{"classes": ["sky", "grass", "water"]}',
        '[{"id": 2, "name": "water"}, {"id": 0, "name": "sky"}, {"id": 1, "name": "grass"}]',
        '{"categories": [{"id": 1, "name": "sky"}, {"id": 3, "name": "water"}, {"id": 2, "name": "grass"}]}',
        '[{"trainId": 1, "name": "grass"}, {"trainId": 0, "name": "sky"}, {"trainId": 2, "name": "water"}]',
        "(0) sky\n(1) grass\n(2) water", "0-sky\n1-grass\n2-water", "sky=0\ngrass=1\nwater=2",
    ],
)  # fmt: skip
def test_class_lists_that_are_read(tmp_path, text):
    (tmp_path / "c").write_bytes(text.encode())
    assert read_classes_file(tmp_path / "c") == (("sky",), ("grass",), ("water",))


def test_names_that_only_look_odd_are_kept(tmp_path):
    (tmp_path / "c").write_text("person, man; woman\nlane 1\nlane 2\nboeing 747\n")
    assert read_classes_file(tmp_path / "c") == (("person, man", "woman"), ("lane 1",), ("lane 2",), ("boeing 747",))
    assert read_classes_file(tmp_path / "c")
    (tmp_path / "c").write_text("thing 0\nthing 1\nthing 2\n")
    assert read_classes_file(tmp_path / "c") == (("thing 0",), ("thing 1",), ("thing 2",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"1": "sky", "3": "grass"}', "neither a list of names"), ('{"a": "sky"}', "neither a list of names"),
        ("[1, 2]", "neither a list of names"), ('["sky", ""]', "neither a list of names"),
        ("['sky']", "begins like JSON"),
        ("[" * 100000, "begins like JSON"), ("7 road\n8 sidewalk\n", "do not count from 0 or 1.*line 1"),
        ("0 sky\n2 grass\n1 water\n", "do not count.*line 2"),
        ("name,r,g,b\nsky,1,2,3\ngrass,4,5,6\n", "line 2"),
        ("sky\tblue\n", "line 1"), ("names:\n- sky\n- grass\n", "line 1"), ("- sky\n- grass\n", "line 1"),
        ('"sky",\n"grass"\n', "line 1"), ("<ul>\n<li>sky\n", "line 1"), ("sky\x00\n", "line 1"),
        ("sky\ngrass\nSky\n", "two classes have the same name"),
        ("name\nsky\ngrass\n", "heading of a table"), ("id,name\n0,sky\n", "heading"),
        ("id name\n0 sky\n1 grass\n", "heading"), ("index;name\n0;sky\n", "heading"),
        ("sky\n__ignore__\n", "line 2"), ("sky 128 0 0\ngrass 0 128 0\n", "line 1"), ("sky # blue\n", "line 1"),
        ("// names\nsky\n", "line 1"), ("sky;7\ngrass;9\n", "line 1"),
        ('[{"id": 1, "name": "a"}, {"id": 5, "name": "b"}]', '"id" of the entries do not count from 0 or 1'),
        ('[{"trainId": 0, "name": "a"}, {"trainId": 255, "name": "b"}]', '"trainId" of the entries do not count'),
        ('[{"id": 0, "trainId": 1, "name": "a"}, {"id": 1, "trainId": 0, "name": "b"}]', "two orders"),
    ],
)  # fmt: skip
def test_class_lists_that_are_refused(tmp_path, text, message):
    (tmp_path / "c").write_text(text)
    with pytest.raises(InputError, match=message):
        read_classes_file(tmp_path / "c")


def test_the_names_of_a_benchmark_in_another_order():
    own = (("sky",), ("grass",), ("water",))
    refuse_other_order(own, own, "f")
    refuse_other_order((("heaven",), ("grass",), ("sky",)), own, "f")  # other names: the user's choice
    with pytest.raises(InputError, match=r'class 0 .from 0. of its labels is "sky", of the list "Grass"'):
        refuse_other_order((("Grass", "lawn"), ("sky",), ("water",)), own, "f")


# region maps


def test_region_maps_belong_to_ids(tmp_path):
    def store(name, value):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(tmp_path / f"{name}.npz", instance_mask=np.full(SIZE, value))

    image = np.zeros((*SIZE, 3), np.uint8)
    images = {f"{s}/frame0": tmp_path / f"images/{s}/frame0.png" for s in ("one", "two")}
    maps = open_regions({"source": "precomputed", "folder": str(tmp_path), "key": "instance_mask"})
    with pytest.raises(InputError, match="none of 2 images has a region map"):
        maps.expect(images, list(images))
    store("frame0", 3)
    with pytest.raises(InputError, match=r"2 images are called frame0\.png.*name the maps by image id"):
        maps.expect(images, ["one/frame0"])
    store("one/frame0", 1), store("two/frame0", 2)
    maps.expect(images, list(images))
    assert [int(maps(image, path).max()) for path in images.values()] == [1, 2]
    city = {"a/x": tmp_path / "images/a/x_left.png", "b/y": tmp_path / "images/b/y_left.png"}
    store("a/x_left", 4), store("y_left", 5)  # beside the image's folder, and by a stem that is unique
    maps.expect(city, list(city))
    assert [int(maps(image, path).max()) for path in city.values()] == [4, 5]


# archives


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [4, 4], "counts": [2**63 - 1, 2**63 - 1, 18]}, {"size": [4, 4], "counts": [2**64, 1]},
        {"size": [10**6, 10**6], "counts": [10**12]}, {"size": [2**40, 2**40], "counts": [1]},
        {"size": [4, 4], "counts": [-1, 17]}, {"size": [4, 4], "counts": [16.0]},
        {"size": [4, 4], "counts": "o" * 5000},
        {"size": [4, 4], "counts": "\x01\x02"}, {"size": [4, 4], "counts": None}, {"size": ["4", 4], "counts": [16]},
        {"size": [4], "counts": [16]}, {"size": [4, 4], "counts": [True] * 16}, {"size": [8, 2], "counts": [16]},
        [], None,
    ],
)  # fmt: skip
def test_hostile_run_lengths(mask):
    from ovbench.data.rle import decode_rle

    with pytest.raises(InputError, match="mask"):
        decode_rle(mask, where="x", size=(4, 4))


@pytest.mark.slow
def test_damaged_matlab_files(tmp_path):
    from scipy.io import savemat

    from ovbench.data.prepare.pascal_context import convert_459

    path, good = tmp_path / "a.mat", np.arange(1, 460).reshape(27, 17)
    savemat(path, {"LabelMap": good}, do_compression=True)
    convert_459(path, tmp_path / "out.tif")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.tif")), good - 1)
    data, generator = path.read_bytes(), np.random.default_rng(0)
    broken = [data[:end] for end in range(0, len(data), 37)]
    for place in generator.integers(0, len(data), 150):
        broken.append(data[:place] + bytes([data[place] ^ int(generator.integers(1, 256))]) + data[place + 1 :])
    for content in broken:
        path.write_bytes(content)
        try:
            convert_459(path, tmp_path / "out.tif")
        except InputError as error:
            assert "a.mat" in str(error)
    for odd in (np.full((3, 3), np.nan), np.full((3, 3), 1.5), np.array(["a"]), np.zeros((0, 3)), np.ones((2, 2, 2))):
        savemat(path, {"LabelMap": odd})
        with pytest.raises(InputError, match="LabelMap"):
            convert_459(path, tmp_path / "out.tif")


def test_the_matlab_file_of_a_public_report(shared_cases, tmp_path):
    from ovbench.data.prepare.pascal_context import convert_459

    with pytest.raises(InputError, match=r"2008_000001\.mat"):
        convert_459(shared_cases / "faults/mat-cut-off/2008_000001.mat", tmp_path / "out.tif")


def test_images_of_a_detail_file_are_pictures(tmp_path):
    from ovbench.data.prepare.pascal_context import _read_detail

    def read(**image):
        whole = {"image_id": 0, "file_name": "a.jpg", "height": 4, "width": 4, "phase": "val"} | image
        (tmp_path / "d.json").write_text(json.dumps({"images": [whole], "annos_segmentation": []}))
        return _read_detail(tmp_path / "d.json")

    assert read()
    for odd in ({"height": 10**9}, {"width": "4"}, {"height": 0}, {"file_name": "../../a.jpg"}, {"file_name": ".."},
                {"file_name": 5}, {"image_id": []}):  # fmt: skip
        with pytest.raises(InputError, match=r"d\.json"):
            read(**odd)
    (tmp_path / "d.json").write_text("[" * 100000)
    with pytest.raises(InputError, match="malformed JSON"):
        _read_detail(tmp_path / "d.json")


def test_odd_members_of_archives(tmp_path):
    from ovbench.data.prepare.unpack import Archive, unpack

    def refuses(change, name="a.txt"):
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"in/{name}", b"text")
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(InputError):
            unpack(Archive(path, "in/", tmp_path / "out"))

    def flagged(data):  # bit 0 of the flags: encrypted
        local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
        data = bytearray(data)
        data[local + 6] |= 1
        data[central + 8] |= 1
        return bytes(data)

    def method(data):  # a method of compression that nobody knows
        local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
        data = bytearray(data)
        data[local + 8] = data[central + 10] = 77
        return bytes(data)

    refuses(flagged)
    refuses(method)
    refuses(lambda data: data, name="n" * 300)


@pytest.mark.parametrize(
    ("method", "more", "patch"),
    [
        ("maskclip", ["--weights", "clip=mini", "--set", "crop=7", "--set", "pad=0"], 8),
        ("clip", ["--weights", "clip=ViT-L-14/openai", "--set", "crop=13", "--set", "pad=0"], 14),
        ("clip", ["--weights", "clip=ViT-B-32-quickgelu/openai", "--set", "crop=20", "--set", "pad=10"], 32),
    ],
)
def test_a_crop_below_the_patch_is_refused_before_weights_are_looked_for(ovbench, method, more, patch):
    done = ovbench("eval", "-m", method, "-d", "mini", *more)
    assert done.code == 2 and f"smaller than a patch of {patch} pixels" in done.err and "planned" not in done.err


COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
COLOURED = '[encoding.colour]\ncolours = ["#ff0000", "#00FF00", [0, 0, 255]]\nvoid_colours = ["#000000"]\n'


def coloured_label(tmp_path, mode="RGB", name="a", extra=None):
    """Classes 0, 1, 2 in stripes and one ignored row; returns the classes."""
    classes = np.arange(SIZE[1])[None].repeat(SIZE[0], 0) % 3
    pixels = np.array(COLOURS, np.uint8)[classes]
    pixels[0] = 0
    if extra is not None:
        pixels[1] = extra
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    path = tmp_path / "labels" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    (image.convert("RGBA") if mode == "RGBA" else image).save(path)
    (tmp_path / "images").mkdir(exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    return classes


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_labels_in_colours_are_read_by_the_table_of_the_card(own, tmp_path, mode):
    classes = coloured_label(tmp_path, mode)
    card = own(tables=COLOURED)
    dataset = open_dataset(card, tmp_path)
    label = dataset.read_label(0)
    assert (label[0] == 65535).all() and np.array_equal(label[1:], classes[1:])
    assert verify(card, tmp_path).ok


def test_a_colour_of_no_class_fails_the_label_or_is_ignored_as_the_card_says(own, tmp_path):
    coloured_label(tmp_path)
    coloured_label(tmp_path, name="b", extra=(255, 1, 0))
    dataset = open_dataset(own(tables=COLOURED), tmp_path)
    with pytest.raises(InputError, match=r'b.png" has the colour #ff0100, which is of no class; .*else = "ignore"'):
        dataset.read_label(1)
    lenient = open_dataset(own(tables=COLOURED + 'else = "ignore"\n'), tmp_path)
    assert (lenient.read_label(1)[:2] == 65535).all() and lenient.read_label(1)[2:].max() == 2


def test_other_values_of_one_channel_are_ignored_if_the_card_says_so(own, tmp_path):
    coloured_label(tmp_path)
    Image.fromarray(np.array([[0, 1, 2, 9]], np.uint8).repeat(SIZE[0], 0).repeat(4, 1)).save(tmp_path / "labels/a.png")
    with pytest.raises(InputError, match="9"):
        open_dataset(own(), tmp_path).read_label(0)
    label = open_dataset(own(tables='[encoding.i]\nelse = "ignore"\n'), tmp_path).read_label(0)
    assert label[0].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [65535] * 4


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ('[encoding.c]\ncolours = ["#ff0000"]\n', "1 colours for 3 classes"),
        ('[encoding.c]\ncolours = ["#ff0000", "#ff0000", "#000000"]\n', '"sky" and "grass" have the same colour #ff0'),
        ('[encoding.c]\ncolours = ["red", "#00ff00", "#0000ff"]\n', r'must be a colour such as "#ff8000"'),
        ("[encoding.c]\ncolours = [[256, 0, 0], [0, 1, 0], [0, 0, 1]]\n", r'must be a colour such as "#ff8000"'),
        (COLOURED.replace("#000000", "#00ff00"), '"grass" and "void_colours" have the same colour'),
        (COLOURED + "shift = 1\n", "stands without"),
        ('[encoding.c]\nvoid_colours = ["#000000"]\n', '"void_colours" needs "colours"'),
        ('[encoding.c]\nelse = "skip"\n', "ignore"),
    ],
)
def test_a_table_of_colours_that_cannot_be(own, tables, message):
    with pytest.raises(InputError, match=message):
        own(tables=tables)


@pytest.mark.slow
def test_other_colours_are_another_ledger(own, tmp_path):
    from ovbench.evaluation.identity import _encoding_sha256

    coloured_label(tmp_path)
    tables = (COLOURED, COLOURED.replace("#ff0000", "#00ff01") + 'else = "ignore"')
    hashes = {_encoding_sha256(open_dataset(own(tables=table), tmp_path).labels) for table in tables}
    assert len(hashes) == 2
