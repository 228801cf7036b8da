"""Damaged downloads, damaged copies, misleading variants: each is named, with the file, and ends with exit code 3."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import raw_benchmarks as raw
from click.testing import CliRunner
from PIL import Image
from scipy.io import savemat

from ovbench.cli.data import data
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.utils.errors import InputError, UsageError


def call(*arguments):
    return CliRunner().invoke(data, [str(a) for a in arguments])


def fails(message, *arguments):
    result = call(*arguments)
    assert isinstance(result.exception, InputError), result.output
    assert result.exception.exit_code == 3
    with pytest.raises(InputError, match=message):
        raise result.exception
    return result


def no_leftovers(root):
    assert not [p for p in root.rglob(".*")]


# --- preparing ---------------------------------------------------------------------------------------------------


def test_prepare_says_what_it_looked_for_and_sees_archives(tmp_path):
    for name, what in (
        ("coco-stuff", r"no COCO-Stuff pixel maps \(PNG\) found \(looked in .*stuffthingmaps/val2017"),
        ("cityscapes", r"no Cityscapes labels .*gtFine/val"),
        ("pc60", "no trainval_merged.json found"),
        ("pc459", r"no label maps \(ID.mat\) found"),
        ("ade847", "no full ADE20K labels"),
    ):
        fails(what, "prepare", name, "--source", tmp_path)
    with zipfile.ZipFile(tmp_path / "mirror.zip", "w"):
        pass
    fails("no images and labels of voc21 found.*get it from", "prepare", "voc21", "--source", tmp_path)
    fails("if the files are in mirror.zip, unpack it there first", "prepare", "coco-stuff", "--source", tmp_path)


def test_prepare_meets_damaged_or_hostile_archives(tmp_path):
    raw.ade150(tmp_path / "raw")
    path, out = tmp_path / "ADEChallengeData2016.zip", tmp_path / "out"
    prepare = ("prepare", "ade150", "--source", tmp_path, "--data-root", out)
    with zipfile.ZipFile(path, "w") as archive:
        for file in (tmp_path / "raw").rglob("*.*"):
            archive.write(file, file.relative_to(tmp_path / "raw"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    fails(r"the archive is damaged: .*ADEChallengeData2016.zip\); download it again", *prepare)
    at = whole.index(b"ADE_val_00000001.jpg") + 200
    path.write_bytes(whole[:at] + b"\0" * 50 + whole[at + 50 :])
    fails(r"the archive is damaged: .*ADE_val_00000001.jpg", *prepare)
    no_leftovers(out)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ADEChallengeData2016/images/validation/../../../../evil.jpg", b"x")
    fails("names a file outside its folder", *prepare)
    assert not list(tmp_path.rglob("evil*"))
    tar = tmp_path / "VOCtrainval_11-May-2012.tar"
    tar.write_bytes(b"no archive" * 100)
    fails("the archive is damaged", "prepare", "voc21", "--source", tmp_path)


def test_prepare_without_images(tmp_path):
    raw.coco(tmp_path)
    shutil.rmtree(tmp_path / "val2017")
    fails("no COCO val2017 images", "prepare", "coco-stuff", "--source", tmp_path)
    raw.pascal_context(tmp_path)
    (tmp_path / "VOCdevkit/VOC2010/JPEGImages/2008_000001.jpg").unlink()
    fails("1 of 3 images missing, first 2008_000001.jpg", "prepare", "pc60", "--source", tmp_path)
    raw.ade_full(tmp_path)
    next(tmp_path.glob("**/validation/**/*2.jpg")).unlink()
    fails(r'no image ".*ADE_val_00000002.jpg" beside its label', "prepare", "ade847", "--source", tmp_path)


def test_prepare_meets_a_value_of_no_category(tmp_path):
    raw.coco(tmp_path)
    raw.label(tmp_path / "stuffthingmaps/val2017/000000000140.png", np.full((48, 64), 200))
    fails(r"200 is not a COCO-Stuff value \(.*000000000140.png\)", "prepare", "coco-stuff", "--source", tmp_path)
    raw.cityscapes(tmp_path)
    bad = next(tmp_path.glob("cityscapes/gtFine/val/lindau/*_labelIds.png"))
    raw.label(bad, raw.mosaic([*range(19), 255]))  # train ids under the name of label ids
    fails(r"255 is not a Cityscapes label id", "prepare", "cityscapes", "--source", tmp_path)
    no_leftovers(tmp_path)


def test_prepare_meets_damaged_pascal_context(tmp_path):
    raw.pascal_context(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2010/trainval_merged.json"
    good = json.loads(path.read_text())
    for change, message in (
        (lambda d: d["annos_segmentation"][0].update(category_id=1), r"category 1 is not one of the 59.*2008_000000"),
        (lambda d: d["annos_segmentation"][0]["segmentation"].update(counts=[3]), r"runs of a mask cover 3 of 3072"),
        (lambda d: d["annos_segmentation"][0].update(segmentation=raw.rle(np.ones((4, 4)))), r"mask of \(4, 4\)"),
        (lambda d: d.pop("annos_segmentation"), r"not PASCAL in Detail's"),
        (lambda d: [i.update(phase="train") for i in d["images"]], r'no image of phase "val"'),
    ):
        broken = json.loads(json.dumps(good))
        change(broken)
        path.write_text(json.dumps(broken))
        fails(message, "prepare", "pc60", "--source", tmp_path)
        shutil.rmtree(path.parent / "SegmentationClassContext", ignore_errors=True)
    path.write_text(json.dumps(good)[:-50])
    fails("malformed JSON", "prepare", "pc60", "--source", tmp_path)
    no_leftovers(tmp_path)


def test_prepare_meets_damaged_label_maps(tmp_path):
    raw.pascal_context_459(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2010/trainval/2008_000001.mat"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    fails(r'cannot read ".*2008_000001.mat"', "prepare", "pc459", "--source", tmp_path)
    savemat(path, {"labels": np.ones((48, 64))})
    fails(r"no variable LabelMap", "prepare", "pc459", "--source", tmp_path)
    savemat(path, {"LabelMap": np.zeros((48, 64))})
    fails(r"LabelMap outside 1..459: 0", "prepare", "pc459", "--source", tmp_path)
    path.unlink()
    fails("1 of 3 label maps missing, first 2008_000001.mat", "prepare", "pc459", "--source", tmp_path)


def test_prepare_meets_damaged_full_ade(tmp_path):
    raw.ade_full(tmp_path)
    path = next(tmp_path.glob("**/ADE_val_00000001_seg.png"))
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    fails(r'cannot read the label ".*ADE_val_00000001_seg.png"', "prepare", "ade847", "--source", tmp_path)
    Image.new("L", (64, 48)).save(path)
    fails(r"has one channel, not RGB", "prepare", "ade847", "--source", tmp_path)


def test_prepare_on_a_full_disk(tmp_path, monkeypatch):
    raw.coco(tmp_path)

    def full(self, path, *args, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", full)
    fails(
        r"cannot write the file: No space left on device .*then run the same command again",
        "prepare",
        "coco-stuff",
        "--source",
        tmp_path,
    )
    no_leftovers(tmp_path)
    assert not list((tmp_path / "annotations/val2017").iterdir())


# --- verifying ---------------------------------------------------------------------------------------------------


def verified(name, root, *options):
    result = call("verify", name, "--data-root", root, "--partial", "--json", *options)
    return json.loads(result.stdout)[0], result


def kinds(report):
    return {p["kind"] for p in report["problems"] if p["is_error"]}


BUILDERS = {
    "voc21": raw.voc,
    "voc20": raw.voc,
    "pc60": raw.pascal_context,
    "pc59": raw.pascal_context,
    "pc459": raw.pascal_context_459,
    "coco-stuff": raw.coco,
    "coco-object": raw.coco,
    "cityscapes": raw.cityscapes,
    "ade150": raw.ade150,
    "ade847": raw.ade_full,
}


def ready(name, root):
    """A prepared copy and its class maps."""
    maps = BUILDERS[name](root)
    if name not in ("voc21", "voc20", "ade150"):
        assert call("prepare", name, "--source", root).exit_code == 0
    return maps


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", BUILDERS)
def test_a_sound_copy_of_every_benchmark(tmp_path, name):
    ready(name, tmp_path)
    report, result = verified(name, tmp_path)
    assert result.exit_code == 0 and report["ok"] and kinds(report) == set(), report["problems"]
    assert all(c["pixels"] > 0 and c["images"] > 0 for c in report["classes"]) or name in ("pc459", "ade847")


def test_the_report_in_words(tmp_path):
    raw.ade150(tmp_path)
    result = fails(r"3 images, the split has 2000.*--partial", "verify", "ade150", "--data-root", tmp_path)
    for text in ("ade150: NOT OK", "3 images of 2000", "error: 3 images, the split has 2000", "windowpane"):
        assert text in result.stdout


def test_the_share_of_each_class(tmp_path):
    raw.ade150(tmp_path, n=1)
    raw.label(next(tmp_path.glob("**/annotations/**/*.png")), np.repeat([0, 1, 1, 150], 768).reshape(48, 64))
    report, _ = verified("ade150", tmp_path)
    assert report["ignored_share"] == 0.25 and report["classes"][0] == {
        "index": 0,
        "name": "wall",
        "pixels": 1536,
        "images": 1,
    }


def first(root, pattern):
    return sorted(root.glob(pattern))[0]


def test_missing_and_extra_files(tmp_path):
    raw.ade150(tmp_path)
    label = first(tmp_path, "**/annotations/**/*.png")
    label.rename(tmp_path / "kept.png")
    report, _ = verified("ade150", tmp_path)
    assert kinds(report) == {"missing label"} and report["problems"][0]["examples"] == ["ADE_val_00000001"]
    with pytest.raises(
        InputError, match=r"1 of 3 labels missing, first .*ADE_val_00000001.png \(ade150\); run: ovbench"
    ):
        open_dataset(load_card("ade150"), tmp_path)
    shutil.copy(tmp_path / "kept.png", label.with_name("ADE_val_00000009.png"))
    assert kinds(verified("ade150", tmp_path)[0]) == {"missing label", "extra label"}
    raw.voc(tmp_path)
    first(tmp_path, "**/JPEGImages/2007_000000.jpg").unlink()
    split = first(tmp_path, "**/Segmentation/val.txt")
    split.write_text(split.read_text() + "2007_000002\n")
    assert kinds(verified("voc21", tmp_path)[0]) == {"missing image", "duplicate id"}


def test_too_many_images(tmp_path, monkeypatch):
    raw.ade150(tmp_path)
    import dataclasses

    card = dataclasses.replace(load_card("ade150"), image_count=2)
    monkeypatch.setattr("ovbench.data.card.load_card", lambda name: card)
    assert kinds(verified("ade150", tmp_path)[0]) == {"count"}


def test_an_empty_split(tmp_path):
    raw.voc(tmp_path)
    split = first(tmp_path, "**/Segmentation/val.txt")
    split.write_text("\n")
    for command in ("verify", "subset"):
        fails(r"the split file is empty \(.*Segmentation/val.txt\)", command, "voc21", "--data-root", tmp_path)
    split.write_bytes(b"\xff\xfe")
    fails(r"the split file .* is not UTF-8", "verify", "voc21", "--data-root", tmp_path)


@pytest.mark.quick(2)
@pytest.mark.parametrize("what", ["image", "label"])
@pytest.mark.parametrize("damage", ["cut", "empty", "html"])
def test_undecodable_files(tmp_path, what, damage):
    raw.ade150(tmp_path)
    path = first(tmp_path, "**/images/**/*.jpg" if what == "image" else "**/annotations/**/*.png")
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) * 2 // 3], "empty": b"", "html": b"<html>"}[damage])
    report, _ = verified("ade150", tmp_path)
    assert kinds(report) == {f"unreadable {what}"} and path.name in report["problems"][0]["message"]
    with pytest.raises(InputError, match=path.name):
        open_dataset(load_card("ade150"), tmp_path).read(0)


def test_a_size_mismatch_and_rotated_files(tmp_path):
    raw.ade150(tmp_path)
    image, label = first(tmp_path, "**/images/**/*.jpg"), first(tmp_path, "**/annotations/**/*.png")
    original = Image.open(label).copy()
    original.crop((0, 0, 40, 40)).save(label)
    assert kinds(verified("ade150", tmp_path)[0]) == {"size mismatch"}
    with pytest.raises(InputError, match=r"image is 64x48 but its label is 40x40 \(ade150, ADE_val_00000001\)"):
        open_dataset(load_card("ade150"), tmp_path).read(0)
    original.transpose(Image.Transpose.ROTATE_90).save(label)
    assert kinds(verified("ade150", tmp_path)[0]) == {"rotated"}
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.open(image).save(image, exif=tag)
    for drawn_on in (Image.Transpose.ROTATE_90, None):  # the upright picture, and the stored pixels: the size tells
        (original.transpose(drawn_on) if drawn_on else original).save(label)
        report = verified("ade150", tmp_path)[0]
        assert report["ok"] and "orientation tag" in {p["kind"] for p in report["problems"]}
        open_dataset(load_card("ade150"), tmp_path).read(0)


def test_odd_image_modes_are_no_trouble(tmp_path):
    raw.ade150(tmp_path)
    for mode, path in zip(("L", "CMYK"), sorted(tmp_path.glob("**/images/**/*.jpg"))[:2], strict=True):
        Image.open(path).convert(mode).save(path)
    report = verified("ade150", tmp_path)[0]
    assert report["ok"] and "1 CMYK, 1 L" in report["problems"][0]["message"]


def rewrite(root, pattern, change, mode=None):
    found = sorted(root.glob(pattern))
    assert found, pattern
    for path in found:
        image = Image.open(path)
        values = change(np.asarray(image).astype(np.int64))
        raw.label(path, values)


STUFF, THINGS = "annotations/val2017/*_labelTrainIds.png", "annotations/val2017/*_instanceTrainIds.png"
ADE, VOC, PC = "**/annotations/**/*.png", "**/SegmentationClass/*.png", "**/SegmentationClassContext/*.png"


def reduced(v):
    return np.where(v == 0, 255, np.where(v == 255, 255, v - 1))


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("name", "pattern", "change", "kind", "words"),
    [
        ("ade150", ADE, lambda v: reduced(reduced(v)), "reduced twice", '"flag", never occurs'),
        ("pc59", PC, lambda v: reduced(reduced(v)), "reduced twice", '"wood", never occurs'),
        ("ade150", ADE, lambda v: np.where(v == 9, 200, v), "label values", r"outside 0..150: 200|outside 1..150"),
        ("voc21", VOC, reduced, "reduced", '"tvmonitor", never occurs'),
        ("voc21", VOC, lambda v: np.where(v == 5, 5, reduced(v * 0)), "background missing", "zero-label reduction"),
        ("voc21", VOC, lambda v: np.where(v == 255, 21, v), "label values", "21"),
        ("coco-stuff", STUFF, "raw", "label values", "raw pixel maps"),
        ("coco-object", THINGS, "raw", "label values", "raw pixel maps"),
        ("coco-object", THINGS, lambda v: np.where(v == 0, 255, v), "label values", "left at 255"),
        ("cityscapes", "**/*_labelTrainIds.png", "raw", "label values", "raw label ids"),
        ("pc459", "**/*.tif", lambda v: v + 1, "label values", "from which 1 was not subtracted"),
        ("pc459", "**/*.tif", lambda v: v % 256, "8-bit labels", "every class from 256 on is lost"),
        ("ade847", "**/*.tif", lambda v: v.astype(np.uint8).astype(int), "8-bit labels", "must have 16"),
    ],
)  # fmt: skip
def test_the_likely_variant_is_named(tmp_path, name, pattern, change, kind, words):
    ready(name, tmp_path)
    if change == "raw":
        source = {"cityscapes": "**/*_labelIds.png"}.get(name, "stuffthingmaps/val2017/*.png")
        for target, path in zip(sorted(tmp_path.glob(pattern)), sorted(tmp_path.glob(source)), strict=True):
            shutil.copy(path, target)
        shutil.rmtree(tmp_path / "stuffthingmaps", ignore_errors=True)
    else:
        rewrite(tmp_path, pattern, change)
    report, result = verified(name, tmp_path)
    messages = {p["kind"]: p["message"] for p in report["problems"] if p["is_error"]}
    assert kind in messages, report["problems"]
    assert any(word in messages[kind] for word in words.split("|")), messages
    assert isinstance(result.exception, InputError) and result.exception.exit_code == 3


def test_palette_read_as_rgb(tmp_path):
    raw.voc(tmp_path)
    for path in tmp_path.glob(VOC):
        Image.open(path).convert("RGB").save(path)
    report, _ = verified("voc21", tmp_path)
    assert (
        kinds(report) == {"colour label"}
        and "palette PNG was read and saved as RGB" in report["problems"][0]["message"]
    )
    with pytest.raises(InputError, match=r"has colours \(RGB\), not class values.*palette"):
        open_dataset(load_card("voc21"), tmp_path).read(0)


def test_segmentation_class_aug(tmp_path):
    raw.voc(tmp_path)
    rewrite(tmp_path, VOC, lambda v: v)  # grey, with the border: equal pixels, worth a note
    report, _ = verified("voc21", tmp_path)
    assert report["ok"] and "SegmentationClassAug" in {p["kind"] for p in report["problems"]}
    rewrite(tmp_path, VOC, lambda v: np.where(v == 255, 0, v))
    assert kinds(verified("voc21", tmp_path)[0]) == {"SegmentationClassAug"}


def test_labels_without_anything_to_score(tmp_path):
    raw.ade150(tmp_path)
    rewrite(tmp_path, ADE, lambda v: v * 0)
    assert kinds(verified("ade150", tmp_path)[0]) == {"nothing to score"}


def test_a_value_out_of_range_stops_the_reader(tmp_path):
    raw.ade150(tmp_path)
    with_151 = sorted(tmp_path.glob(ADE))[0].relative_to(tmp_path)
    rewrite(tmp_path, str(with_151), lambda v: np.where(v == 9, 151, v))
    pattern = (
        r"label value 151 outside 1..150 and not the ignore value 0 \(ade150, ADE_val_00000001\); run: ovbench data"
    )
    with pytest.raises(InputError, match=pattern):
        open_dataset(load_card("ade150"), tmp_path).read(0)


def test_several_benchmarks_are_all_verified_though_one_fails(tmp_path):
    raw.ade150(tmp_path)
    rewrite(tmp_path, ADE, lambda v: np.where(v == 9, 200, v))
    raw.voc(tmp_path)
    result = call("verify", "pc60", "ade150", "voc21", "--data-root", tmp_path, "--partial")
    assert "ade150: NOT OK" in result.stdout and "voc21: ok" in result.stdout
    assert "error: 3 labels have values outside" in result.stderr
    assert isinstance(result.exception, InputError) and "of pc60 found" in str(result.exception)
    reports = json.loads(call("verify", "pc60", "voc21", "--data-root", tmp_path, "--partial", "--json").stdout)
    assert [report["ok"] for report in reports] == [False, True] and "looked in" in reports[0]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_preparation_leaves_whole_files_and_goes_on(tmp_path, how):
    maps = raw.coco(tmp_path, n=100)
    command = [sys.executable, "-m", "ovbench", "data", "prepare", "coco-stuff", "--source", tmp_path, "--workers", "1"]
    folder = tmp_path / "annotations/val2017"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(folder.glob("*.png")):
            time.sleep(0.002)
        process.send_signal(how)
    written = list(folder.glob("*.png"))
    assert written and process.returncode in (0, -how, 128 + how)
    for path in written:
        classes = maps[path.name.removesuffix("_labelTrainIds.png")]
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.where(classes < 0, 255, classes))
    assert call("prepare", "coco-stuff", "--source", tmp_path).exit_code == 0
    assert len(list(folder.iterdir())) == 100 and len(open_dataset(load_card("coco-stuff"), tmp_path)) == 100
    no_leftovers(folder)


def test_a_loop_of_links_is_one_sentence(tmp_path):
    for name in ("loop", "loop.toml"):
        (tmp_path / name).symlink_to(name)
    with pytest.raises(InputError, match="symbolic links"):
        load_card(str(tmp_path / "loop.toml"))
    result = call("new", tmp_path / "loop")
    assert isinstance(result.exception, UsageError) and "is not a folder or archive" in str(result.exception)
