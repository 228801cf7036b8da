"""Images and labels in archives, COCO annotations and tables: the same pixels as files, identified by content."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovbench.cli import cli
from ovbench.data.card import load_card
from ovbench.data.coco_labels import fill_polygon
from ovbench.data.dataset import IGNORED, open_dataset
from ovbench.data.rle import decode_rle
from ovbench.data.sources import read_source
from ovbench.evaluation.identity import identity_of, is_still
from ovbench.utils.errors import InputError, UsageError

CLASSES = ("sky", "dog", "cat")
SIZE = (8, 12)
FILES = '[[layout]]\nimage = "photos/{id}.png"\nlabel = "truth/{id}.png"\n'


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(count=3):
    """Images and labels by file name: every label has sky, a dog and a column that is ignored."""
    rng = np.random.default_rng(0)
    files = {}
    for number in range(count):
        label = np.zeros(SIZE, np.uint8)
        label[2:5, number : number + 4], label[5:7, 2:9], label[:, 11] = 1, 2, 255
        files[f"photos/{number}.png"] = png(rng.integers(0, 256, (*SIZE, 3), np.uint8))
        files[f"truth/{number}.png"] = png(label)
    return files


def as_folder(files, root):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return FILES


def as_zip(files, root):
    with zipfile.ZipFile(root / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, "__MACOSX/photos/._0.png": b"x"}.items():
            archive.writestr(name, data)
    return FILES.replace('"photos', '"all.zip/photos').replace('"truth', '"all.zip/truth')


def as_tar(files, root):
    with tarfile.open(root / "all.tar", "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            if name == "photos/2.png":  # as tar writes a second name of a file that it has already
                info.name, linked = "./store/x", tarfile.TarInfo(f"./{name}")
                archive.addfile(info, io.BytesIO(data))
                linked.type, linked.linkname = tarfile.LNKTYPE, "./store/x"
                archive.addfile(linked)
            else:
                archive.addfile(info, io.BytesIO(data))
    return FILES.replace('"photos', '"all.tar/photos').replace('"truth', '"all.tar/truth')


def as_parquet(files, root):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    numbers = range(len(files) // 2)
    for part, rows in enumerate((numbers[:2], numbers[2:])):  # two files, row groups of one row
        images = [{"bytes": files[f"photos/{n}.png"], "path": f"{n}.png"} for n in rows]
        labels = [files[f"truth/{n}.png"] for n in rows]
        table = arrow.table({
            "image": images, "mask": arrow.array(labels, arrow.binary()), "id": list(map(str, rows)),
            "caption": ["a caption " * 500, "with a\0zero", "a dog"][: len(rows)],  # no path
        })  # fmt: skip
        parquet.write_table(table, root / f"val-{part}.parquet", row_group_size=1)
    return '[[layout]]\nparquet = "val-*.parquet"\nimage = "image"\nlabel = "mask"\nids = "id"\n'


def as_arrow(files, root):
    arrow = pytest.importorskip("pyarrow")
    numbers = range(len(files) // 2)
    rows = {
        "image": [{"bytes": files[f"photos/{n}.png"], "path": None} for n in numbers],
        "mask": [{"bytes": files[f"truth/{n}.png"], "path": None} for n in numbers],
    }
    table = arrow.table(rows)
    (root / "disk").mkdir(exist_ok=True)
    path = str(root / "disk/data-00000-of-00001.arrow")
    with arrow.OSFile(path, "wb") as file, arrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return '[[layout]]\nparquet = "disk"\nimage = "image"\nlabel = "mask"\n'


def as_paths(files, root):
    """Paths from the folder above the table."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    as_folder(files, root)
    (root / "data").mkdir(exist_ok=True)
    columns = {name: [f"{name}/{n}.png" for n in range(len(files) // 2)] for name in ("photos", "truth")}
    parquet.write_table(arrow.table(columns), root / "data" / "val.parquet")
    return '[[layout]]\nparquet = "data/val.parquet"\nimage = "photos"\nlabel = "truth"\n'


def as_arrow_paths(files, root):
    """Absolute paths in structs, as `datasets` caches a folder of images."""
    arrow = pytest.importorskip("pyarrow")
    as_folder(files, root)
    kind = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
    paths = {name: [str(root / f"{name}/{n}.png") for n in range(len(files) // 2)] for name in ("photos", "truth")}
    table = arrow.table(
        {name: arrow.array([{"bytes": None, "path": p} for p in column], kind) for name, column in paths.items()}
    )
    with arrow.OSFile(str(root / "val.arrow"), "wb") as file, arrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return '[[layout]]\nparquet = "val.arrow"\nimage = "photos"\nlabel = "truth"\n'


def runs(mask):
    """Uncompressed run lengths, column by column."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat.astype(int))) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": counts if not flat[0] else [0, *counts]}


def as_coco(files, root, *, inside=None):
    """Sky as run lengths, drawn first as it is the largest; dogs as polygons, cats as run lengths; one column free."""
    images, annotations = [], []
    for number in range(len(files) // 2):
        label = np.asarray(Image.open(io.BytesIO(files[f"truth/{number}.png"])))
        images.append({"id": 10 + number, "file_name": f"{number}.png", "width": SIZE[1], "height": SIZE[0]})
        left, right = number, number + 4
        shapes = {
            3: [[left, 2, right, 2, right, 5, left, 5]], 9: runs(label == 2), 5: runs(label != 255),
        }  # fmt: skip
        for category, shape in shapes.items():
            one = {"image_id": 10 + number, "category_id": category, "segmentation": shape, "iscrowd": 0}
            annotations.append({"id": len(annotations), **one})
    names = {5: "sky", 3: "dog", 9: "cat"}
    categories = [{"id": number, "name": name} for number, name in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    name = "notes/instances.json"
    only_images = {name: data for name, data in files.items() if name.startswith("photos")}
    if inside is None:
        as_folder({**only_images, name: json.dumps(content).encode()}, root)
        return f'[[layout]]\nimage = "photos/{{id}}.png"\ncoco = "{name}"\n'
    as_zip({**only_images, name: json.dumps(content).encode()}, root)
    return f'[[layout]]\nimage = "all.zip/photos/{{id}}.png"\ncoco = "all.zip/{name}"\n'


def as_coco_in_zip(files, root):
    return as_coco(files, root, inside="zip")


def as_panoptic(files, root):
    numbers = {"sky": 7, "dog": 300, "cat": 70000}
    images, annotations, written = [], [], {}
    for number in range(len(files) // 2):
        label = np.asarray(Image.open(io.BytesIO(files[f"truth/{number}.png"])))
        ids = np.select([label == i for i in range(3)], list(numbers.values()), 0)
        written[f"pan/{number}.png"] = png(np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE[1], "height": SIZE[0]})
        segments = [{"id": numbers[name], "category_id": c} for c, name in enumerate(CLASSES)]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    as_folder({**files, **written, "pan.json": json.dumps(content).encode()}, root)
    return '[[layout]]\nimage = "photos/{id}.png"\ncoco = "pan.json"\n'


FORMS = (
    as_folder, as_zip, as_tar, as_parquet, as_arrow, as_paths, as_arrow_paths, as_coco, as_coco_in_zip, as_panoptic,
)  # fmt: skip


def card(root, layout, *, classes=CLASSES, extra=""):
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    path = root / "own.toml"
    path.write_text(f'title = "own"\nclasses = "classes.txt"\n{extra}{layout}')
    load_card.cache_clear()
    return load_card(str(path))


@pytest.mark.quick(3)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_pixels_of_the_files(form, tmp_path):
    files = pictures()
    expected = open_dataset(card(tmp_path / "plain", as_folder(files, tmp_path / "plain")))
    found = open_dataset(card(tmp_path / "own", form(files, (tmp_path / "own", (tmp_path / "own").mkdir())[0])))
    assert len(found) == 3
    for index in range(3):
        ours, wanted = found.read(index), expected.read(index)
        np.testing.assert_array_equal(ours.image, wanted.image)
        np.testing.assert_array_equal(ours.label, wanted.label)
    assert set(np.unique(found.read_label(0))) == {0, 1, 2, IGNORED}


@pytest.mark.quick(3)
@pytest.mark.parametrize("form", FORMS)
def test_a_changed_image_or_label_is_noticed_and_the_others_are_not_counted_again(form, tmp_path):
    files = pictures()
    items = open_dataset(card(tmp_path, form(files, tmp_path))).items
    noted = [[identity_of(path) for path in item[1:]] for item in items]
    assert all(all(map(is_still, before, item[1:])) for before, item in zip(noted, items, strict=True))
    changed = pictures()
    changed["photos/1.png"] = png(np.zeros((*SIZE, 3), np.uint8))
    changed["truth/1.png"] = png(np.roll(np.asarray(Image.open(io.BytesIO(files["truth/1.png"]))), 1, 0))
    form(changed, tmp_path)
    for path in tmp_path.rglob("*.*"):
        os.utime(path, ns=(1, 5_000_000_000))
    items = open_dataset(card(tmp_path, form(changed, tmp_path))).items
    still = [list(map(is_still, before, item[1:])) for before, item in zip(noted, items, strict=True)]
    assert still == [[True, True], [False, False], [True, True]]


def test_a_path_in_a_table_without_its_file_is_named(tmp_path):
    files = pictures()
    found = open_dataset(card(tmp_path, as_paths(files, tmp_path)))
    (tmp_path / "truth/1.png").unlink()
    assert found.read_label(0).shape == SIZE
    with pytest.raises(InputError, match=r'truth/1 names the file "truth/1\.png", which does not exist'):
        found.read_label(1)


def test_a_benchmark_is_read_from_an_archive_as_data_root(tmp_path):
    card_file = card(tmp_path / "card", FILES)
    files = pictures()
    (tmp_path / "x").mkdir()
    as_zip(files, tmp_path / "x")
    dataset = open_dataset(card_file, tmp_path / "x/all.zip")
    assert [item.id for item in dataset.items] == ["0", "1", "2"]
    with pytest.raises(UsageError, match="is not a folder or archive"):
        open_dataset(card_file, tmp_path / "x/other.zip")


@pytest.mark.slow
@pytest.mark.parametrize("form", (as_zip, as_parquet, as_coco))
def test_eval_counts_the_same_from_every_form(form, tmp_path):
    files, scores = pictures(), []
    for name, make in (("plain", as_folder), ("own", form)):
        root = tmp_path / name
        root.mkdir()
        path = card(root, make(files, root)).path
        words = ("--set", "short_side=32", "--set", "crop=32", "--set", "stride=32", "--set", "templates=identity_1")
        done = CliRunner().invoke(
            cli, ["eval", "-m", "clip", "-d", str(path), "--weights", "clip=mini", "--out", str(tmp_path / "runs"),
                  "--device", "cpu", "--json", *words], catch_exceptions=False,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        scores.append(json.loads(done.stdout)["counts"])
    assert scores[0] == scores[1]


def test_pixels_without_annotation_are_the_background_if_the_card_has_one(tmp_path):
    layout = as_coco(pictures(1), tmp_path)
    found = open_dataset(card(tmp_path, layout, classes=(*CLASSES, "rest"), extra="background = 3\n"))
    label = found.read_label(0)
    assert (label[:, 11] == 3).all() and (label[:, :11] < 3).all()


def test_categories_that_fit_no_class_are_an_error_or_ignored(tmp_path):
    layout = as_coco(pictures(1), tmp_path)
    with pytest.raises(InputError, match=r'"dgo".*did you mean "dog"'):
        open_dataset(card(tmp_path, layout, classes=("sky", "dgo", "cat")))
    with pytest.raises(InputError, match=r'1 categories .* of no class.*"cat".*else = "ignore"'):
        open_dataset(card(tmp_path, layout, classes=("sky", "dog")))
    ignoring = layout + '[encoding.coco]\nelse = "ignore"\n'
    label = open_dataset(card(tmp_path, ignoring, classes=("sky", "dog"))).read_label(0)
    assert (label[5:7, 2:9] == IGNORED).all()
    renamed = layout + '[encoding.coco]\ncategories = ["sky", "dog", "cat"]\n'
    label = open_dataset(card(tmp_path, renamed, classes=("blue sky", "puppy", "kitten"))).read_label(0)
    assert (label[5:7, 2:9] == 2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [[1, 1, 2, 2]]}, "at least 3 corners"),
        ({"segmentation": [[1, 1, 2, 2, 1e9, 3]]}, "in or near the image"),
        ({"segmentation": [[1, 1, 2, float("nan"), 5, 3]]}, "in or near the image"),
        ({"segmentation": {"size": [8, 12], "counts": [1, 2]}}, "runs of a mask cover"),
        ({"segmentation": {"size": [12, 8], "counts": [96]}}, r"mask of \(12, 8\) in an image of"),
        ({"segmentation": {"size": [8, 12], "counts": "~~"}}, "not a COCO run-length mask"),
        ({"segmentation": {"size": [8, 12], "counts": "P"}}, "not a COCO run-length mask"),
        ({"segmentation": []}, "no segmentation"),
        ({"category_id": 77}, "category 77 is not listed"),
        ({"image_id": 77}, "of no listed image"),
    ],
)
def test_malformed_annotations_are_one_sentence(change, message, tmp_path):
    layout = as_coco(pictures(1), tmp_path)
    path = tmp_path / "notes/instances.json"
    content = json.loads(path.read_text())
    content["annotations"][1].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        open_dataset(card(tmp_path, layout)).read(0)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a\x1b.png"])
def test_annotations_name_no_file_outside_their_folder(name, tmp_path):
    layout = as_coco(pictures(1), tmp_path)
    path = tmp_path / "notes/instances.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is not the name of a file in a folder"):
        open_dataset(card(tmp_path, layout))


def test_a_column_of_a_table_has_as_many_rows_as_the_table_says(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    as_parquet(pictures(), tmp_path)
    assert read_source(tmp_path / "val-0.parquet" / "image" / "0").data[1:4] == b"PNG"
    whole = parquet.ParquetFile.read_row_group
    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", lambda *given, **named: whole(*given, **named).slice(1))
    with pytest.raises(InputError, match='the column "image" has 0 of 1 rows'):
        read_source(tmp_path / "val-1.parquet" / "image" / "0")


def test_damaged_archives_and_tables_are_one_sentence(tmp_path):
    for form, name in ((as_zip, "all.zip"), (as_tar, "all.tar"), (as_parquet, "val-0.parquet")):
        root = tmp_path / name
        root.mkdir()
        made = card(root, form(pictures(), root))
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 3])
        with pytest.raises(InputError):
            open_dataset(made).read(0)
    zipped = tmp_path / "all.zip/all.zip"
    as_zip(pictures(), zipped.parent)
    data = bytearray(zipped.read_bytes())
    data[60] ^= 255  # in the first member
    zipped.write_bytes(data)
    with pytest.raises(InputError, match=r"photos/0.png.* of the archive.*copy the archive again"):
        read_source(zipped / "photos/0.png")
    (tmp_path / "c.tar.gz").write_bytes(b"x")
    with pytest.raises(InputError, match="gunzip"):
        open_dataset(card(tmp_path / "gz", FILES.replace('"photos', '"../c.tar.gz/photos')))


def test_columns_that_do_not_fit_are_named(tmp_path):
    layout = as_parquet(pictures(), tmp_path)
    with pytest.raises(InputError, match=r'unknown column "msk".*"mask"'):
        open_dataset(card(tmp_path, layout.replace('"mask"', '"msk"')))
    with pytest.raises(InputError, match=r'"id" has no images, .*; columns with images: image, mask'):
        open_dataset(card(tmp_path, layout.replace('"mask"', '"id"').replace('ids = "id"', "")))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ('coco = "a.json"\nimage = "a.jpg"\n', "must contain {id} once"),
        ('coco = "a.json"\nimage = "{id}.jpg"\nlabel = "{id}.png"\n', "stands without"),
        ('parquet = "a.parquet"\nimage = "{id}"\nlabel = "b"\n', "names of columns"),
        ('parquet = "a.parquet"\nimage = "b"\n', "names of columns"),
        ('image = "{id}.jpg"\nlabel = "{id}.png"\n[encoding.coco]\ncategories = ["a", "b", "c"]\n', "for COCO"),
        ('coco = "a.json"\nimage = "{id}.jpg"\n[encoding.x]\nvalues = [1, 2, 3]\n', "no values or colours"),
        ('coco = "a.json"\nimage = "{id}.jpg"\n[encoding.x]\ncategories = ["a"]\n', "one category for each of the 3"),
    ],
)
def test_a_wrong_layout_is_named(layout, message, tmp_path):
    with pytest.raises(InputError, match=message):
        card(tmp_path, f"[[layout]]\n{layout}")


@pytest.mark.parametrize(
    ("corners", "text"),
    [
        ([[2.3, 1.2], [9.7, 2.5], [6.1, 7.9]], "i0271N2N00O1Nh0"),
        # crosses itself and leaves the image
        ([[-2, 1], [14.5, 7.25], [13, 0.5], [0.5, 9], [5, 3]], "b01312000100O90G1O2O0N"),
        ([[1.1, 1.1], [1.2, 1.1], [1.2, 1.2]], "P3"),
    ],
)
def test_polygons_have_the_pixels_of_the_coco_api(corners, text):
    """The run lengths are from pycocotools 2.0.11."""
    expected = decode_rle({"size": SIZE, "counts": text}, where="")
    np.testing.assert_array_equal(fill_polygon(np.array(corners, float), SIZE), expected)
