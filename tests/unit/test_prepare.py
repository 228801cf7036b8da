"""Raw downloads to what the cards read: pixel for pixel, resumable, and never half a file."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile

import cv2
import numpy as np
import pytest
import raw_benchmarks as raw
from click.testing import CliRunner
from PIL import Image
from test_dataset import assert_reads, without_background

from ovbench.cli.data import data
from ovbench.data.card import load_card
from ovbench.data.prepare import prepare, target_root
from ovbench.data.prepare.ade_full import convert_image, convert_label, prepared_size
from ovbench.data.rle import decode_rle
from ovbench.utils import files
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import temporary_path


def prepared(name, source, root=None, **options):
    return prepare(load_card(name), source, root and target_root(load_card(name), root), **options)


def state(root):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in root.rglob("*")}


BUILDERS = {
    "pc60": raw.pascal_context,
    "pc59": raw.pascal_context,
    "pc459": raw.pascal_context_459,
    "coco-stuff": raw.coco,
    "coco-object": raw.coco,
    "cityscapes": raw.cityscapes,
    "ade847": raw.ade_full,
}
LAYOUTS = {
    "pc60": "mmseg",
    "pc59": "mmseg",
    "pc459": "mmseg",
    "coco-stuff": "mmseg",
    "coco-object": "mmseg",
    "cityscapes": "train-ids",
    "ade847": "detectron2",
}


def expected(name, maps):
    if name == "pc59":
        return without_background(maps)
    return {i: raw.coco_object_of(m) for i, m in maps.items()} if name == "coco-object" else maps


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("beside", [True, False])
def test_raw_to_prepared(tmp_path, name, beside):
    source = tmp_path / "download"
    maps = expected(name, BUILDERS[name](source))
    root = source if beside else tmp_path / "data"
    first = prepared(name, source, None if beside else root)
    assert first.written > 0
    dataset = assert_reads(name, root, maps)
    assert dataset.layout == LAYOUTS[name] and dataset.root == first.root
    before = state(tmp_path)
    again = prepared(name, source, None if beside else root)
    assert again.written == 0
    assert state(tmp_path) == before


def test_stored_forms_are_those_of_the_community(tmp_path):
    raw.coco(tmp_path)
    prepared("coco-stuff", tmp_path)
    prepared("coco-object", tmp_path)
    raw.pascal_context_459(tmp_path)
    prepared("pc459", tmp_path)
    stuff = Image.open(tmp_path / "annotations/val2017/000000000139_labelTrainIds.png")
    assert stuff.mode == "L" and 255 in np.asarray(stuff)
    things = Image.open(tmp_path / "annotations/val2017/000000000139_instanceTrainIds.png")
    assert things.mode == "L" and np.asarray(things).max() == 80
    wide = Image.open(next((tmp_path / "VOCdevkit/VOC2010/annotations_detectron2/pc459_val").glob("*.tif")))
    assert wide.mode == "I;16" and np.asarray(wide).max() > 255


def test_an_interrupted_preparation_goes_on(tmp_path, monkeypatch):
    from ovbench.data.prepare import coco

    maps = raw.coco(tmp_path)
    convert, calls = coco.convert, []

    def dies_at_the_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        convert(*arguments)

    monkeypatch.setattr(coco, "convert", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepared("coco-stuff", tmp_path)
    monkeypatch.setattr(coco, "convert", convert)
    folder = tmp_path / "annotations/val2017"
    with monkeypatch.context() as killed:
        killed.setattr("os.getpid", lambda: 2**31 - 2)  # no such process
        temporary_path(folder / "000000000140_labelTrainIds.png").write_bytes(b"half")
    files.remove_leftovers_once.cache_clear()  # as in a new process
    assert len(list(folder.glob("*.png"))) == 1
    assert prepared("coco-stuff", tmp_path).written == 2
    assert_reads("coco-stuff", tmp_path, maps)
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_several_processes_write_the_same_files(tmp_path):
    maps = raw.coco(tmp_path, n=20)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert prepared("coco-stuff", tmp_path, workers=2).written == 40
    prepared("coco-stuff", tmp_path / "copy")
    assert_reads("coco-stuff", tmp_path, maps)
    for path in (tmp_path / "annotations/val2017").iterdir():
        assert path.read_bytes() == (tmp_path / "copy/annotations/val2017" / path.name).read_bytes()


@pytest.mark.slow
def test_ade_full_is_resized_where_both_sides_exceed_512(tmp_path):
    sizes = [prepared_size(*s) for s in ((1536, 2048), (2048, 1537), (512, 900), (900, 512), (513, 513), (600, 601))]
    assert sizes == [(512, 683), (682, 512), (512, 900), (900, 512), (512, 512), (512, 513)]
    maps = raw.ade_full(tmp_path, n=1, h=600, w=700)
    prepared("ade847", tmp_path)
    (name, classes), size = next(iter(maps.items())), (597, 512)
    rows, columns = (np.arange(size[k]) * (classes.shape[1 - k] / size[k]) for k in (1, 0))
    assert_reads("ade847", tmp_path, {name: classes[rows.astype(int)][:, columns.astype(int)]})


@pytest.mark.slow
def test_ade_full_images_compressed_again_or_exact(tmp_path):
    raw.ade_full(tmp_path, n=2, h=600, w=700)
    folder = tmp_path / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    grey = folder / "ADE_val_00000002.jpg"
    Image.open(grey).convert("L").save(grey)
    prepared("ade847", tmp_path)
    images = tmp_path / "ADE20K_2021_17_01/images_detectron2/validation"
    small = cv2.resize(np.asarray(Image.open(folder / "ADE_val_00000001.jpg")), (597, 512))
    Image.fromarray(small).save(tmp_path / "again.jpg")
    assert (images / "ADE_val_00000001.jpg").read_bytes() == (tmp_path / "again.jpg").read_bytes()
    assert Image.open(images / "ADE_val_00000002.jpg").mode == "L"
    shutil.rmtree(images)
    prepared("ade847", tmp_path, image_format="png")
    np.testing.assert_array_equal(np.asarray(Image.open(images / "ADE_val_00000001.png")), small)


@pytest.mark.slow
def test_real_ade_full_samples(samples, tmp_path):
    facts = json.loads((samples / "ade20k-full/expected/expected.json").read_text())
    for name, fact in facts.items():
        folder = samples / "ade20k-full" / fact["folder"]
        convert_label(folder / f"{name}_seg.png", tmp_path / "a.tif")
        label = np.asarray(Image.open(tmp_path / "a.tif"))
        np.testing.assert_array_equal(label, np.asarray(Image.open(samples / f"ade20k-full/expected/{name}.png")))
        convert_image(folder / f"{name}.jpg", tmp_path / "a.png")
        mean = np.asarray(Image.open(tmp_path / "a.png")).mean((0, 1))
        np.testing.assert_allclose(mean, fact["image_mean_after_resize_rgb"], atol=1e-4)


def test_real_coco_sample(samples, tmp_path):
    shutil.copytree(samples / "coco-panoptic/images/val2017", tmp_path / "val2017")
    shutil.copytree(samples / "coco-panoptic/derived/annotations/val2017", tmp_path / "stuffthingmaps/val2017")
    prepared("coco-object", tmp_path)
    labels = list((tmp_path / "stuffthingmaps/val2017").iterdir())
    assert labels
    for path in labels:
        values = np.asarray(Image.open(path))
        made = np.asarray(Image.open(tmp_path / f"annotations/val2017/{path.stem}_instanceTrainIds.png"))
        assert made.shape == values.shape and ((made == 0) == (values > 90)).all()


def test_the_459_split_that_ships_is_used_where_there_is_none(tmp_path):
    maps = raw.pascal_context_459(tmp_path)
    base = tmp_path / "VOCdevkit/VOC2010"
    shutil.rmtree(base / "ImageSets")
    shipped = {"2008_000002", "2008_000003"}  # of the four images, those in the list
    prepared("pc459", tmp_path)
    assert {p.stem for p in (base / "annotations_detectron2/pc459_val").iterdir()} == shipped
    del maps


def test_run_length_masks(tmp_path):
    generator = np.random.default_rng(0)
    for _ in range(30):
        h, w = generator.integers(1, 90, 2)
        mask = np.kron(generator.random((3, 4)) > generator.random(), np.ones((h, w))) > 0
        np.testing.assert_array_equal(decode_rle(raw.rle(mask), where=""), mask)
    for broken in ({"size": [2, 2], "counts": [5]}, {"size": [2, 2]}, {"size": [2, 2], "counts": "o"}, {"counts": []}):
        with pytest.raises(InputError, match="here"):
            decode_rle(broken, where="here")


@pytest.mark.parametrize("name", ["voc21", "ade150"])
def test_what_needs_no_preparation_is_placed_where_it_belongs(tmp_path, name):
    maps = {"voc21": raw.voc, "ade150": raw.ade150}[name](tmp_path / "downloads")
    assert prepared(name, tmp_path / "downloads").written == 0
    assert prepared(name, tmp_path / "downloads", tmp_path / "data").written == 2 * len(maps) + (name == "voc21")
    assert_reads(name, tmp_path / "data", maps)
    assert prepared(name, tmp_path / "downloads", tmp_path / "data").written == 0
    next(
        (tmp_path / "downloads").glob("**/SegmentationClass/*" if name == "voc21" else "**/annotations/**/*.png")
    ).unlink()
    with pytest.raises(InputError, match="1 of 3 labels missing"):
        prepared(name, tmp_path / "downloads", tmp_path / "other")


def call(*arguments):
    return CliRunner().invoke(data, [str(a) for a in arguments])


def test_the_command(tmp_path):
    raw.coco(tmp_path / "download")
    result = call(
        "prepare", "coco-stuff", "coco-object", "--source", tmp_path / "download", "--data-root", tmp_path / "d"
    )
    assert result.exit_code == 0, result.output
    assert "coco-stuff: 6 files written, 0 already there" in result.stdout
    assert "coco-object: 3 files written, 3 already there" in result.stdout  # the images are shared
    result = call("prepare", "coco-stuff", "--source", tmp_path / "download", "--data-root", tmp_path / "d", "--json")
    assert json.loads(result.stdout)[0]["written"] == 0
    result = call("prepare", "coco-stuff", "--source", tmp_path / "download", "--data-root", tmp_path / "d")
    assert "nothing to do" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mini", "--source", "."], r"mini is generated on first use and needs no preparation"),
        (["coco-stuff", "--source", "/nowhere"], r'the source "/nowhere" is not a folder'),
        (["coco-stuff", "--source", ".", "--image-format", "png"], r"coco-stuff does not convert its images"),
        (["coco", "--source", "."], r'unknown dataset "coco"; did you mean'),
    ],
)
def test_wrong_calls(arguments, message):
    error = call("prepare", *arguments).exception
    assert isinstance(error, UsageError) and error.exit_code == 2
    with pytest.raises(UsageError, match=message):
        raise error


def pack(folder, prefix, archive):
    """Move a folder into an archive under another name."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = [(path, f"{prefix}{path.relative_to(folder).as_posix()}") for path in folder.rglob("*") if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "a") as target:
            for path, name in files:
                target.write(path, name)
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as target:
            for path, name in files:
                target.add(path, name)
    shutil.rmtree(folder)


def packed(name, base, downloads):
    """The instance as the archives that are published."""
    if name in ("voc21", "ade150"):
        folder, prefix, archive = {
            "voc21": ("VOCdevkit", "VOCdevkit/", "VOCtrainval_11-May-2012.tar"),
            "ade150": ("ADEChallengeData2016", "ADEChallengeData2016/", "ADEChallengeData2016.zip"),
        }[name]
        return pack(base / folder, prefix, downloads / archive)
    if name == "coco-object":
        pack(base / "val2017", "val2017/", downloads / "val2017.zip")
        return pack(base / "stuffthingmaps", "", downloads / "stuffthingmaps_trainval2017.zip")
    if name == "cityscapes":
        for folder in ("leftImg8bit", "gtFine"):
            pack(base / "cityscapes" / folder, f"{folder}/", downloads / f"{folder}_trainvaltest.zip")
        return None
    if name == "pc459":
        pack(base / "VOCdevkit/VOC2010/trainval", "trainval/", downloads / "trainval.tar.gz")
        shutil.copytree(base / "VOCdevkit/VOC2010/ImageSets", downloads / "ImageSets")
    if name == "pc60":
        shutil.copy(base / "VOCdevkit/VOC2010/trainval_merged.json", downloads / "trainval_merged.json")
    if name in ("pc459", "pc60"):
        return pack(base / "VOCdevkit", "VOCdevkit/", downloads / "VOCtrainval_03-May-2010.tar")
    return pack(base / "ADE20K_2021_17_01", "ADE20K_2021_17_01/", downloads / "ADE20K_2021_17_01.zip")


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", ["voc21", "ade150", "coco-object", "cityscapes", "pc459", "pc60", "ade847"])
@pytest.mark.parametrize("beside", [True, False])
def test_from_archives(tmp_path, name, beside):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    builder = {**BUILDERS, "voc21": raw.voc, "ade150": raw.ade150}[name]
    maps = expected(name, builder(tmp_path / "raw"))
    packed(name, tmp_path / "raw", downloads)
    root = downloads if beside else tmp_path / "data"
    assert prepared(name, downloads, None if beside else root).written > 0
    assert_reads(name, root, maps)
    before = state(root)
    assert prepared(name, downloads, None if beside else root).written == 0
    assert state(root) == before


def test_a_flipped_bit_in_a_downloaded_label_is_seen(tmp_path):
    from ovbench.data.prepare.convert import raw_values

    raw.label(tmp_path / "a.png", raw.mosaic([0, 1, 2]))
    assert raw_values(tmp_path / "a.png").max() == 2
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[data.index(b"IDAT") + 9] ^= 4
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match="a checksum in the PNG is wrong"):
        raw_values(tmp_path / "a.png")
