"""`ovbench eval --save-predictions` and `ovbench score`."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from ovbench.data.card import load_card
from ovbench.data.coco_masks import encode_classes
from ovbench.data.dataset import open_dataset
from ovbench.evaluation.predictions import SavedPredictions
from ovbench.results.record_files import deviations_of

CLASSES = ["road", "sky", "tree"]
SIZE = (24, 32)
EVAL = (
    *("eval", "-m", "maskclip", "-d", "mini", "--limit", "2", "--device", "cpu"),
    *("--set", "short_side=64", "--set", "crop=0", "--json"),
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A dataset of four images with three classes, and the right label maps by id."""
    monkeypatch.chdir(tmp_path)
    rng, maps = np.random.default_rng(0), {}
    for number in range(4):
        name = f"town/{number}"
        maps[name] = rng.integers(0, 3, SIZE).astype(np.uint8)
        for folder, array in (("images", np.zeros((*SIZE, 3), np.uint8)), ("labels", maps[name])):
            (tmp_path / folder / "town").mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    (tmp_path / "own.toml").write_text(
        'title = "Own"\nclasses = "classes.txt"\n[encoding.index]\nvoid = [255]\n[encoding.from-one]\nshift = 1\n'
        'void = [0]\n[[layout]]\nimage = "images/{id}.png"\nlabel = "labels/{id}.png"\nencodings = ["index"]\n'
    )
    return maps


def write(folder, maps, form="whole"):
    """Write label maps in one of the forms that other programs write."""
    folder.mkdir()
    masks = []
    for name, labels in maps.items():
        base = name.rpartition("/")[2]
        if form == "whole":
            (folder / "town").mkdir(exist_ok=True)
            Image.fromarray(labels).save(folder / f"{name}.png")
        elif form == "ending":
            Image.fromarray(labels).save(folder / f"{base}_pred.png")
        elif form == "flat":
            np.save(folder / f"{name.replace('/', '_')}.npy", labels.astype(np.int64))
        elif form == "npz":
            np.savez(folder / f"{base}.npz", labels)
        else:
            found = encode_classes(labels)
            masks += [{"file_name": f"images/{name}.png", "category_id": v, **found[v]} for v in found]
    if form == "detectron2":
        (folder / "sem_seg_predictions.json").write_text(json.dumps(masks))


def changed(maps):
    """Maps with one wrong pixel in each."""
    wrong = {name: labels.copy() for name, labels in maps.items()}
    for labels in wrong.values():
        labels[0, 0] = (labels[0, 0] + 1) % 3
    return wrong


def scored(ovbench, tmp_path, *more, code=0):
    words = ("--dataset", tmp_path / "own.toml", "--data-root", tmp_path, "--predictions", tmp_path / "maps")
    done = ovbench("score", *words, "--json", *more)
    assert done.code == code, done.err
    return done


@pytest.mark.quick(1)
@pytest.mark.parametrize("form", ["whole", "ending", "flat", "npz", "detectron2"])
def test_maps_of_other_programs(ovbench, tmp_path, data, form):
    write(tmp_path / "maps", changed(data), form)
    done = scored(ovbench, tmp_path, "--name", "other")
    record, pixels = done.json(), SIZE[0] * SIZE[1]
    assert record["metrics"]["aAcc"] == pytest.approx(1 - 1 / pixels) and record["status"] == "complete"
    assert record["metrics"]["mIoU_interval"] is not None or record["metrics"]["mIoU_no_interval"]
    assert record["cell"]["method"] == "other@predictions" and record["cell"]["params"] == {"encoding": "index"}
    assert record["published"] == {"official": False, "deviations": [], "sources": []}
    assert 'class indices, 0 = "road"' in done.err
    assert (tmp_path / "runs" / record["ledger"]).is_dir() and deviations_of(record) == ""
    again = scored(ovbench, tmp_path, "--name", "other")
    assert again.json() == record and "4 of 4 images were counted" in again.err


@pytest.mark.slow
def test_changed_maps_are_counted_again(ovbench, tmp_path, data):
    write(tmp_path / "maps", data)
    assert scored(ovbench, tmp_path).json()["metrics"]["mIoU"] == 1
    Image.fromarray(changed(data)["town/2"]).save(tmp_path / "maps" / "town" / "2.png")
    done = scored(ovbench, tmp_path)
    assert done.json()["metrics"]["mIoU"] < 1 and "1 of 4 images has changed" in done.err
    assert done.json()["time"]["images_counted_now"] == 1


def test_a_missing_map_a_wrong_size_and_a_wrong_value_fail_their_images(ovbench, tmp_path, data):
    write(tmp_path / "maps", data)
    (tmp_path / "maps" / "town" / "0.png").unlink()
    Image.fromarray(data["town/1"][:-1]).save(tmp_path / "maps" / "town" / "1.png")
    done = scored(ovbench, tmp_path, code=4)
    record = done.json()
    assert "1 of 4 images have no label map" in done.err and record["status"] == "partial"
    assert "no label map" in record["failed"]["town/0"] and "32x23 but its image is 32x24" in record["failed"]["town/1"]
    np.save(tmp_path / "maps" / "town" / "2.npy", data["town/2"])
    assert "are maps of one image" in scored(ovbench, tmp_path, code=3).err
    (tmp_path / "maps" / "town" / "2.npy").unlink()
    Image.fromarray(data["town/3"] + 3).save(tmp_path / "maps" / "town" / "3.png")
    record = scored(ovbench, tmp_path, "--encoding", "index", code=4).json()
    assert ", outside 0..2 and not the ignore value 255" in record["failed"]["town/3"]


@pytest.mark.slow
def test_pixels_without_a_class_are_wrong(ovbench, tmp_path, data):
    maps = {name: labels.copy() for name, labels in data.items()}
    for labels in maps.values():
        labels[0, 0] = 255
    write(tmp_path / "maps", maps)
    metrics = scored(ovbench, tmp_path).json()["metrics"]
    assert metrics["aAcc"] == pytest.approx(1 - 1 / (SIZE[0] * SIZE[1])) and metrics["mIoU"] < 1


@pytest.mark.slow
def test_the_encoding_is_never_guessed(ovbench, tmp_path, data):
    write(tmp_path / "maps", {name: labels + 1 for name, labels in data.items()})
    found = scored(ovbench, tmp_path)  # the value 3 is no class index, and the card has an encoding from 1
    assert found.json()["metrics"]["mIoU"] == 1 and '"from-one"' in found.err
    for name, labels in data.items():  # 1 and 2 only: either may be
        Image.fromarray(np.clip(labels, 1, 2)).save(tmp_path / "maps" / f"{name}.png")
    assert "fit several encodings: index, from-one" in scored(ovbench, tmp_path, code=2).err
    assert scored(ovbench, tmp_path, "--encoding", "index").json()["cell"]["params"] == {"encoding": "index"}
    assert 'did you mean "from-one"' in scored(ovbench, tmp_path, "--encoding", "from_one", code=2).err
    for name, labels in data.items():  # 0 occurs and all are class indices, but the first class is the last value
        Image.fromarray((labels + 2) % 3).save(tmp_path / "maps" / f"{name}.png")
    said = "read as the first class as the last value, the maps agree with 100 %"
    assert said in scored(ovbench, tmp_path, code=2).err
    assert f"warning: {said}" in scored(ovbench, tmp_path, "--encoding", "index").err
    for name in data:
        Image.fromarray(np.full(SIZE, 77, np.uint8)).save(tmp_path / "maps" / f"{name}.png")
    assert "the maps have the values 77" in scored(ovbench, tmp_path, code=3).err


@pytest.mark.slow
def test_the_report_shows_the_scored_maps(ovbench, tmp_path, data):
    maps = {name: labels.copy() for name, labels in changed(data).items()}
    maps["town/0"][1, 1] = 255
    write(tmp_path / "maps", maps)
    record = scored(ovbench, tmp_path).json()
    path = next(tmp_path.glob("runs/*.json"))
    words = ("--data-root", tmp_path, "--card", tmp_path / "own.toml", "--out", tmp_path / "page.html")
    done = ovbench("report", path, *words)
    assert done.code == 0 and "not shown" not in done.err and "not exactly" not in done.err, done.err
    assert record["cell"]["method"] in (tmp_path / "page.html").read_text()
    again = ovbench("rerun", path, "--data-root", tmp_path)
    assert again.code == 0, again.err
    Image.fromarray(data["town/3"]).save(tmp_path / "maps" / "town" / "3.png")
    assert ovbench("rerun", path, "--data-root", tmp_path).code == 1


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("none", 'no folder "none"'),
        ("images", "has colours (RGB), not class values"),
        ("empty", "no label map of an image of own"),
    ],
)
def test_bad_folders(ovbench, tmp_path, data, folder, says):
    (tmp_path / "empty").mkdir()
    done = ovbench("score", "-d", "own.toml", "--data-root", ".", "--predictions", folder)
    assert done.code == 3 and says in done.err


@pytest.mark.slow
@pytest.mark.parametrize("form", ["png", "confidence", "coco"])
def test_saved_maps_have_the_score_of_their_run(ovbench, tmp_path, form, drawn_mini):
    done = ovbench(*EVAL, "--out", tmp_path, "--save-predictions", form)
    record = done.json()
    folder = tmp_path / record["ledger"] / "predictions" / form
    files = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    assert len(files) == 3 and f"predictions: {folder}" in done.err
    lost = next(iter(files))
    lost.unlink()
    again = ovbench(*EVAL, "--out", tmp_path, "--save-predictions", form)
    assert again.json() == record and {path: path.read_bytes() for path in sorted(folder.iterdir())} == files
    if form == "confidence":
        with np.load(lost) as one:
            assert one["confidence"].shape == one["labels"].shape and one["confidence"].dtype == np.float16
            assert 0 < one["confidence"].min() < one["confidence"].max() <= 1
    scored = ovbench("score", "-d", "mini", "--limit", "2", "--predictions", folder, "--out", tmp_path / "s", "--json")
    assert scored.code == 0, scored.err
    found = scored.json()
    assert found["counts"] == record["counts"] and found["metrics"] == record["metrics"]
    assert found["cell"]["method"] == "maskclip@predictions"
    other = ovbench("score", "-d", "mini-bg", "--limit", "2", "--predictions", folder)
    assert other.code == 3 and "the label maps are of mini with" in other.err


@pytest.mark.slow
def test_the_report_reads_the_maps_that_a_run_kept(ovbench, tmp_path, drawn_mini, monkeypatch):
    """They are not labelled again, so no weights are needed; the page also has their confidence."""
    from ovbench.results.report import error_images

    monkeypatch.setattr(error_images, "_pipeline", None)
    made = {}
    for form in ("confidence", "npz"):
        record = ovbench(*EVAL, "--out", tmp_path / form, "--save-predictions", form).json()
        done = ovbench("report", tmp_path / form, "--out", tmp_path / f"{form}.html")
        assert done.code == 0 and "not exactly" not in done.err and "not shown" not in done.err, done.err
        made[form] = (tmp_path / f"{form}.html").read_text().count('"confidence":"')
    assert made == {"confidence": record["dataset"]["images"], "npz": 0}


def test_a_benchmark_without_a_test_server(ovbench, tmp_path):
    done = ovbench(*EVAL, "--out", tmp_path, "--save-predictions", "server")
    assert done.code == 2 and "test server of mini is not known" in done.err


@pytest.mark.slow
def test_the_layouts_of_test_servers_are_read_and_written(ovbench, tmp_path, samples):
    """Labels of Cityscapes and ADE20K, written as their servers want predictions, have a perfect score."""
    for name, folder, images, name_of_first in (
        ("cityscapes", "cityscapes-small", 1, "frankfurt_000000_000294_labelIds.png"),
        ("ade150", "ade20k-sceneparsing", 3, "ADE_val_00000001.png"),
    ):
        dataset, maps = open_dataset(load_card(name), samples / folder), tmp_path / name
        writer = SavedPredictions(maps, "server", dataset.card, "perfect")
        for number in range(len(dataset)):
            sample = dataset.read(number)
            writer.save(number, sample, sample.label)
        assert (maps / name_of_first).exists() and len(list(maps.iterdir())) == images + 1
        (maps / "predictions.json").unlink()  # as of another program
        words = ("-d", name, "--data-root", samples / folder, "--predictions", maps, "--json", "--out", tmp_path)
        done = ovbench("score", *words, "--encoding", "ids" if name == "cityscapes" else "raw")
        assert done.code == 0, done.err
        assert done.json()["metrics"]["mIoU"] == 1 and done.json()["dataset"]["images"] == images
        values = np.unique(np.array(Image.open(maps / name_of_first)))
        assert values.max() > 19 if name == "cityscapes" else values.max() <= 150


def test_tables_in_the_terminal_have_the_warnings_of_their_records():
    from pathlib import Path

    from ovbench.evaluation.record import read_record
    from ovbench.results.compare import as_dict, compare_runs, load_run, tables
    from ovbench.results.console import as_text, class_table, summary_table

    path = next((Path(__file__).parents[1] / "historic").glob("maskclip-*.json"))
    record, warning = read_record(path), "clip is a toy"
    run = load_run(path)
    for one in (record, run.record):
        one["notes"] = [warning]
    compared = as_dict(compare_runs(run, run), 1)
    assert compared["warnings"] == [warning]
    for table in (class_table(record), summary_table([record, record]), tables(compared)[0]):
        assert " ".join(as_text(table).split()).count(warning) == 1


def test_a_terminal_shows_the_best_and_worst_of_many_classes(monkeypatch):
    from types import SimpleNamespace

    from rich.console import Console

    from ovbench.cli.data import _report
    from ovbench.results.console import as_text, class_table

    rows = [{"class": f"c{n}.", "iou": n / 100 if n % 10 else None, "acc": 1.0} for n in range(100)]
    record = {
        "cell": {"method": "clip", "dataset": "own"}, "dataset": {"images": 1, "split_images": 1}, "per_class": rows,
        "metrics": {"mIoU": 0.5, "mAcc": 1.0, "aAcc": 1.0},
    }  # fmt: skip
    verified = SimpleNamespace(
        card=SimpleNamespace(name="own", classes=[row["class"] for row in rows], unconfirmed=()), ok=True, root="data",
        listed_images=1, expected_images=None, layout="", encoding=SimpleNamespace(means="", name="x"), sizes=None,
        pixels=list(range(100)), images=[1] * 100, ignored_pixels=0, problems=(),
    )  # fmt: skip
    for text in (as_text(class_table(record)), _report(verified)):
        assert all(f"c{n}." in text for n in range(100))
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for text, last, first in ((as_text(class_table(record)), 13, 87), (_report(verified), 11, 88)):
        found = [int(number) for number in re.findall(r"\bc(\d+)\.", text)]
        assert len(found) == 24 and found[0] == 99 and min(found[:12]) == first and max(found[12:]) == last, text
        assert "all: --json" in text


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "about", [[1], 5, None, {"dataset": 5}, {"dataset": "Own", "classes": None}, {"dataset": "x", "classes": 5}]
)
def test_a_damaged_note_of_label_maps_is_one_sentence(data, ovbench, tmp_path, about):
    write(tmp_path / "maps", data)
    (tmp_path / "maps" / "predictions.json").write_text(json.dumps(about))
    done = ovbench("score", "-d", "own.toml", "--data-root", tmp_path, "--predictions", "maps")
    assert done.code == 3 and "not the note of saved label maps" in done.err


@pytest.mark.parametrize("category", ["x", None, -1, 1.5])
def test_a_mask_of_no_class_is_one_sentence(data, ovbench, tmp_path, category):
    (tmp_path / "maps").mkdir()
    mask = {"file_name": "0.png", "category_id": category, "segmentation": {"size": [24, 32], "counts": [768]}}
    (tmp_path / "maps" / "sem_seg_predictions.json").write_text(json.dumps([mask]))
    done = ovbench("score", "-d", "own.toml", "--data-root", tmp_path, "--predictions", "maps")
    assert done.code == 3 and "category_id is " in done.err


@pytest.mark.slow
def test_names_of_failed_images_are_escaped(data, ovbench, tmp_path):
    write(tmp_path / "maps", data)
    for folder in ("images", "labels", "maps"):
        (tmp_path / folder / "town" / "0.png").rename(tmp_path / folder / "town" / "\x1b[2J0.png")
    (tmp_path / "maps" / "town" / "\x1b[2J0.png").write_bytes(b"text")
    done = ovbench("score", "-d", "own.toml", "--data-root", tmp_path, "--predictions", "maps")
    assert done.code == 4 and r"failed: town/\x1b[2J0: cannot read" in done.err
    assert "its format is not known" in done.err
    assert "\x1b[2J" not in done.err
