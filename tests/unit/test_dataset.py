"""Decoding, label rules, and finding a benchmark in each layout."""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import raw_benchmarks as raw
from PIL import Image

from ovbench.data.card import load_card
from ovbench.data.dataset import IGNORED, NO_CLASS, open_dataset, read_image
from ovbench.utils.errors import InputError, UsageError


def as_label(classes: np.ndarray) -> np.ndarray:
    return np.where(classes < 0, IGNORED, classes).astype(np.uint16)


def assert_reads(name, root, maps, **options):
    dataset = open_dataset(load_card(name), root, **options)
    assert [item.id for item in dataset.items] == sorted(maps)
    for index, item in enumerate(dataset.items):
        sample = dataset.read(index)
        assert sample.image.shape == (*sample.label.shape, 3) and sample.image.dtype == np.uint8
        assert sample.label.dtype == np.uint16
        np.testing.assert_array_equal(sample.label, as_label(maps[item.id]))
    return dataset


def without_background(maps):
    return {name: np.where(classes > 0, classes - 1, raw.VOID) for name, classes in maps.items()}


def test_voc_border_is_ignored_and_voc20_drops_background(tmp_path):
    maps = raw.voc(tmp_path)
    assert_reads("voc21", tmp_path, maps)
    assert_reads("voc20", tmp_path, without_background(maps))


@pytest.mark.parametrize("below", ["VOCdevkit", "VOCdevkit/VOC2012", "."])
def test_a_data_root_may_be_any_folder_above(tmp_path, below):
    assert_reads("voc21", tmp_path / below, raw.voc(tmp_path))


def test_voc_in_the_detectron2_layout(tmp_path):
    maps = raw.voc(tmp_path)
    base = tmp_path / "VOCdevkit/VOC2012"
    for name, classes in maps.items():
        reduced = np.where(classes > 0, classes - 1, 255)
        raw.label(base / f"annotations_detectron2/val/{name}.png", reduced)
        last = np.where(classes == 0, 20, np.where(classes < 0, 255, classes - 1))
        raw.label(base / f"annotations_detectron2_bg/val/{name}.png", last)
    shutil.rmtree(base / "SegmentationClass")
    assert_reads("voc20", tmp_path, without_background(maps))
    assert_reads("voc21", tmp_path, maps)


@pytest.mark.quick(2)
@pytest.mark.parametrize("folder", ["annotations/validation", "annotations_detectron2/validation"])
@pytest.mark.parametrize("reduced", [False, True])
def test_ade150_reduced_and_unreduced_alike(tmp_path, folder, reduced):
    maps = raw.ade150(tmp_path)
    base = tmp_path / "ADEChallengeData2016"
    shutil.rmtree(base / "annotations")
    for name, classes in maps.items():
        raw.label(base / folder / f"{name}.png", np.where(classes < 0, 255, classes) if reduced else classes + 1)
    dataset = assert_reads("ade150", tmp_path, maps)
    assert dataset.labels.encoding.name == ("reduced" if reduced else "raw")


@pytest.mark.quick(2)
@pytest.mark.parametrize("folder", ["SegmentationClassContext", "annotations_detectron2/pc59_val"])
@pytest.mark.parametrize("reduced", [False, True])
def test_pascal_context_reduced_and_unreduced_alike(tmp_path, folder, reduced):
    maps = raw.pascal_context(tmp_path)
    base = tmp_path / "VOCdevkit/VOC2010"
    raw.lines(base / "ImageSets/SegmentationContext/val.txt", maps)
    for name, classes in maps.items():
        raw.label(base / folder / f"{name}.png", np.where(classes == 0, 255, classes - 1) if reduced else classes)
    assert_reads("pc59", tmp_path, without_background(maps))
    assert_reads("pc60", tmp_path, maps)


@pytest.mark.parametrize("reduced", [False, True])
def test_voc20_reduced_and_unreduced_in_the_official_folder(tmp_path, reduced):
    maps = raw.voc(tmp_path)
    for name, classes in maps.items() if reduced else ():
        objects = np.where((classes == 1) & (name != "2007_000000"), 2, classes)  # an aeroplane in one image of three
        maps[name] = objects
        raw.label(tmp_path / f"VOCdevkit/VOC2012/SegmentationClass/{name}.png", np.where(objects > 0, objects - 1, 255))
    dataset = assert_reads("voc20", tmp_path, without_background(maps))
    assert dataset.labels.encoding.name == ("reduced" if reduced else "index")


def coco_layout(name, root, maps):
    if name == "official":
        return
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images/val2017")
    if name == "raw":
        (root / "annotations").mkdir()
        shutil.move(root / "stuffthingmaps/val2017", root / "annotations/val2017")
    pattern = {
        "mmseg": "annotations/val2017/{}_labelTrainIds.png",
        "detectron2": "annotations_detectron2/val2017/{}.png",
        "freecp": "annotations/stuff/{}_labelTrainIds.png",
    }.get(name)
    for image, classes in maps.items() if pattern else ():
        raw.label(root / pattern.format(image), np.where(classes < 0, 255, classes))
    if pattern:
        shutil.rmtree(root / "stuffthingmaps")


@pytest.mark.quick(2)
@pytest.mark.parametrize("layout", ["official", "raw", "mmseg", "detectron2", "freecp"])
def test_coco_stuff_in_every_layout_and_object_from_it(tmp_path, layout):
    root = tmp_path / "coco_stuff164k"
    maps = raw.coco(root)
    coco_layout(layout, root, maps)
    assert_reads("coco-stuff", tmp_path, maps)
    if layout != "freecp":
        objects = {name: raw.coco_object_of(classes) for name, classes in maps.items()}
        assert_reads("coco-object", tmp_path, objects)
        assert all((classes == 0).any() for classes in objects.values())  # unlabeled is background, nothing ignored


def test_raw_and_converted_coco_labels_share_a_folder(tmp_path):
    maps = raw.coco(tmp_path)
    coco_layout("raw", tmp_path, maps)
    for name, classes in maps.items():
        raw.label(tmp_path / f"annotations/val2017/{name}_instanceTrainIds.png", raw.coco_object_of(classes))
        raw.label(tmp_path / f"annotations/val2017/{name}_labelTrainIds.png", np.where(classes < 0, 255, classes))
    assert assert_reads("coco-stuff", tmp_path, maps).layout == "mmseg"
    shutil.rmtree(tmp_path / "images")
    shutil.copytree(tmp_path / "annotations/val2017", tmp_path / "images/val2017")  # PNG only: no image at all
    with pytest.raises(InputError, match="looked in"):
        open_dataset(load_card("coco-stuff"), tmp_path)


def test_a_half_prepared_copy_is_read_from_the_complete_raw_labels(tmp_path):
    maps = raw.coco(tmp_path)
    coco_layout("raw", tmp_path, maps)
    first = next(iter(maps))
    raw.label(tmp_path / f"annotations/val2017/{first}_labelTrainIds.png", np.maximum(maps[first], 0))
    assert assert_reads("coco-stuff", tmp_path, maps).layout == "raw"


def test_cityscapes_label_ids_are_mapped_while_reading(tmp_path):
    maps = raw.cityscapes(tmp_path)
    assert assert_reads("cityscapes", tmp_path, maps).layout == "label-ids"
    for name, classes in maps.items():
        path = tmp_path / f"cityscapes/gtFine/val/{name}_gtFine_labelTrainIds.png"
        raw.label(path, np.where(classes < 0, 255, classes))
    assert assert_reads("cityscapes", tmp_path, maps).layout == "train-ids"


def test_sixteen_bit_labels_and_the_official_rule(tmp_path):
    base = tmp_path / "ADE20K_2021_17_01"
    classes = raw.mosaic([*range(240, 847), raw.VOID])
    photo, label = base / "images_detectron2/validation/a.jpg", base / "annotations_detectron2/validation/a.tif"
    raw.photo(photo, 0)
    raw.label(label, np.where(classes < 0, 65535, classes))
    assert_reads("ade847", tmp_path, {"a": classes})
    official = open_dataset(load_card("ade847"), tmp_path, label_rule="official").read_label(0)
    assert (official[classes == 255] == IGNORED).all() and (official[classes < 0] == NO_CLASS).all()
    rest = (classes >= 0) & (classes != 255)
    np.testing.assert_array_equal(official[rest], classes[rest])
    with pytest.raises(UsageError, match='unknown label rule "offical"'):
        open_dataset(load_card("ade847"), tmp_path, label_rule="offical")


def test_the_official_rule_changes_nothing_in_8_bits(tmp_path):
    maps = raw.voc(tmp_path)
    assert_reads("voc21", tmp_path, maps, label_rule="official")


def test_real_samples(samples):
    for name, folder in (
        ("ade150", "ade20k-sceneparsing"),
        ("voc21", "voc-labelme"),
        ("cityscapes", "cityscapes-small"),
    ):
        dataset = open_dataset(load_card(name), samples / folder)
        for index in range(len(dataset)):
            image, label = dataset.read(index)[1:3]
            assert image.shape[:2] == label.shape and ((label < len(dataset.card.classes)) | (label == IGNORED)).all()


def test_where_data_is_looked_for(tmp_path, monkeypatch):
    maps = raw.ade150(tmp_path / "here")
    card = load_card("ade150")
    with pytest.raises(InputError, match=r"no data root is known.*--data-root, set OVBENCH_DATA, or write data_root"):
        open_dataset(card)
    config = tmp_path / "config" / "ovbench" / "config.toml"
    config.parent.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    config.write_text(f'data_root = ["{tmp_path}", "{tmp_path / "here"}"]\n')
    assert len(open_dataset(card)) == len(maps)
    config.write_text('data_rot = "x"\n')
    with pytest.raises(InputError, match=r'unknown key "data_rot".*did you mean "data_root"'):
        open_dataset(card)
    monkeypatch.setenv("OVBENCH_DATA", str(tmp_path / "here"))  # wins over the file
    assert len(open_dataset(card)) == len(maps)
    with pytest.raises(UsageError, match=r'the data root ".*gone" is not a folder or archive \(--data-root\)'):
        open_dataset(card, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"no images and labels of ade150 found.*empty/ade/ADEChallengeData2016.*get it"
    ):
        open_dataset(card, tmp_path / "empty")


def test_an_unprepared_download_says_so(tmp_path):
    raw.pascal_context(tmp_path)
    with pytest.raises(InputError, match=r"not prepared yet; run: ovbench data prepare pc59 --source .*VOC2010"):
        open_dataset(load_card("pc59"), tmp_path)


@pytest.mark.slow
def test_mini_is_drawn_once_and_read_like_the_rest():
    mini, background = open_dataset(load_card("mini")), open_dataset(load_card("mini-bg"))
    assert len(mini) == len(background) == 100 and mini.root == background.root
    label, things = mini.read_label(3), background.read_label(3)
    stuff = len(mini.card.classes) - len(background.card.classes) + 1
    scored = label != IGNORED
    np.testing.assert_array_equal(things[scored], np.maximum(label[scored].astype(int) - stuff + 1, 0))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((40, 24), Image.BILINEAR)


def test_read_image_decodes_as_opencv_does(tmp_path, picture):
    tag = Image.Exif()
    tag[0x0112] = 6
    rgb = np.asarray(picture)
    alpha = picture.convert("RGBA")
    alpha.putalpha(7)
    deep = (np.asarray(picture.convert("L")).astype(np.uint16) << 8) + 5
    cases = {
        "plain.png": (encoded(picture, "PNG"), rgb),
        "alpha.png": (encoded(alpha, "PNG"), rgb),
        "grey.png": (
            encoded(picture.convert("L"), "PNG"),
            np.repeat(np.asarray(picture.convert("L"))[..., None], 3, 2),
        ),
        "palette.png": (encoded(picture.quantize(16), "PNG"), np.asarray(picture.quantize(16).convert("RGB"))),
        "deep.png": (encoded(Image.fromarray(deep), "PNG"), np.repeat((deep >> 8)[..., None], 3, 2)),
        "turned.png": (encoded(picture, "PNG", exif=tag), np.rot90(rgb, -1)),
        "cmyk.jpg": (encoded(picture.convert("CMYK"), "JPEG", quality=100), rgb),
        "grey.jpg": (encoded(picture.convert("L"), "JPEG"), None),
        "turned.jpg": (encoded(picture, "JPEG", exif=tag), None),
    }
    for name, (data, expected) in cases.items():
        (tmp_path / name).write_bytes(data)
        image = read_image(tmp_path / name)
        assert image.shape == (rgb.shape if "turned" not in name else (40, 24, 3)) and image.dtype == np.uint8, name
        if expected is not None:
            assert np.abs(image.astype(int) - expected).max() <= (12 if name == "cmyk.jpg" else 0), name
        np.testing.assert_array_equal(image[..., ::-1], cv2.imread(str(tmp_path / name)))


@pytest.mark.slow
def test_read_image_equals_the_loader_of_mmseg(samples):
    import mmcv

    folders = (samples / "ade20k-sceneparsing", samples / "misc")
    found = [sorted(folder.rglob("*.jpg")) for folder in folders]
    assert all(found)
    for path in itertools.chain(*found):
        np.testing.assert_array_equal(read_image(path)[..., ::-1], mmcv.imread(str(path)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_a_cut_off_image_is_an_error_that_names_it(tmp_path, picture, kind, keep):
    data = encoded(picture.resize((200, 150)), kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=r'cannot read the image ".*cut.img"'):
        read_image(path)


def test_other_unreadable_images(tmp_path):
    path = tmp_path / "a.jpg"
    with pytest.raises(InputError, match=r'no image file ".*a.jpg"'):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        read_image(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r'cannot read the image ".*a.jpg"'):
        read_image(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        read_image(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path, picture):
    data = encoded(picture, "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.jpg").write_bytes(data + b"camera maker's notes" * 9)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), read_image(tmp_path / "b.jpg"))


@pytest.mark.slow
def test_reading_data_imports_no_torch():
    code = "import sys, ovbench.data.dataset, ovbench.cli.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = "import sys, ovbench.cli.data; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
