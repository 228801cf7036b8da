"""Groups of benchmarks, and their converters on folders made like the downloads, by the rules of the original ones."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from mess_downloads import BUILDERS, RNG, deepcrack, photo, save, worldfloods
from PIL import Image

from ovbench.config.load import resolve
from ovbench.config.nearest_published import nearest_published
from ovbench.data.card import load_card, vocabulary
from ovbench.data.dataset import locate, open_dataset
from ovbench.data.groups import all_members, present_members
from ovbench.data.prepare import convert, mess, prepare
from ovbench.data.prepare.convert import ByColour, tiles_beside, tiles_inside
from ovbench.data.shipped_cards import card_groups, group_of, grouped_cards, known_cards, list_cards
from ovbench.utils.errors import InputError


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(mess, "SIDE", 16)


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", BUILDERS)
def test_a_download_becomes_the_prepared_folders(name, tmp_path, small_tiles):
    card = load_card(name)
    source = tmp_path / "download" / card.roots[0]
    source.mkdir(parents=True)
    expected = BUILDERS[name](source)
    done = prepare(card, tmp_path / "download", tmp_path / "data" / card.roots[0])
    assert done.written and done.root == tmp_path / "data" / card.roots[0]
    found = locate(card, tmp_path / "data")
    assert found.complete and found.layout == card.layouts[0]
    assert {item.id for item in found.items} == set(expected)
    for item in found.items:
        label = np.asarray(Image.open(item.label_path)).astype(int)
        classes = label - card.encodings[0].shift if name.startswith("rs-") else label
        classes = np.where((label == 255) | (classes < 0), 255, classes)
        assert (classes == expected[item.id]).all(), item.id
        assert Image.open(item.image_path).size == Image.open(item.label_path).size
    again = prepare(card, tmp_path / "download", tmp_path / "data" / card.roots[0])
    assert again.written == 0 and again.already_there == done.written


def test_infrared_images_are_scaled_and_filled(tmp_path, small_tiles):
    worldfloods(tmp_path)
    pixels = mess._infrared(tmp_path / "test/S2/e1.tif")
    assert pixels.shape == (5, 20, 3) and set(pixels[..., 0].ravel()) == {255}
    assert set(pixels[..., 1].ravel()) <= {127, 128} and not pixels[..., 2].any()


def test_a_flood_label_has_one_band(tmp_path):
    import tifffile

    values = RNG.integers(0, 4, (5, 20)).astype(np.uint8)
    for form in (values, values[None], values[..., None]):
        tifffile.imwrite(tmp_path / "e1.tif", form)
        assert (mess._flood_classes(tmp_path / "e1.tif") == np.array([255, 0, 1, 2])[values]).all()
    tifffile.imwrite(tmp_path / "e1.tif", np.stack([values, values]))
    with pytest.raises(InputError, match="the label has 2 bands"):
        mess._flood_classes(tmp_path / "e1.tif")


def test_a_group_without_a_download_says_so(tmp_path):
    for name in ("mess-suim", "rs-loveda", "mapillary"):
        with pytest.raises(InputError, match=r"no .* found"):
            prepare(load_card(name), tmp_path, tmp_path / "data")


def test_colours_without_a_class(tmp_path, caplog):
    path = save(tmp_path / "a.png", [[[0, 0, 0], [9, 1, 2]]])
    assert ByColour({(0, 0, 0): 4}, "red")(path).tolist() == [[4, 9]]
    assert "1 pixels of" in caplog.text and "(9, 1, 2)" in caplog.text
    assert ByColour({(0, 0, 0): 4}, 0)(path).tolist() == [[4, 0]]
    with pytest.raises(InputError, match=r"the colour \(9, 1, 2\) is of no class"):
        ByColour({(0, 0, 0): 4})(path)
    with pytest.raises(InputError, match="9 is no value of this dataset"):
        convert.ByValue({0: 0})(path.with_name("b.png") if save(tmp_path / "b.png", [[0, 9]]) else path)


def test_tiles():
    assert [tile[:2] for tile in tiles_beside((3000, 4000), 1024)] == [
        (row, column) for row in (0, 1024, 2048) for column in (0, 1024, 2048, 3072)
    ]
    starts = [tile.left for tile in tiles_inside((512, 6000), (512, 512), (512, 512))]
    assert len(starts) == 12 and starts[-2:] == [5120, 5488]
    assert [tile[:2] for tile in tiles_inside((900, 100), (896, 896), (512, 512))] == [(0, 0), (4, 0)]


def test_the_groups():
    assert {name: len(cards) for name, cards in card_groups().items()} == {
        "driving": 7, "further": 1, "mess": 25, "remote-sensing": 8
    }  # fmt: skip
    assert not set(list_cards()) & set(grouped_cards()) and group_of("mess-suim") == "mess"
    assert all_members(["mess", "voc21", "mess-suim"])[-1] == "voc21" and len(all_members(["mess"])) == 25
    for name in grouped_cards():
        card = load_card(name)
        assert len(card.path.read_text().splitlines()) < 40 and card.is_shipped and card.argument == name
        assert card.licence and card.citation and card.source and (card.image_count or card.unconfirmed), name
        assert len(vocabulary(card)) == len(card.classes)
    assert set(grouped_cards()) <= set(known_cards())


def test_cards_are_those_of_mess(samples):
    tasks = json.loads((samples.parent / "facts" / "datasets" / "mess.json").read_text())["datasets"]
    by_title = {}
    for task in tasks.values():
        by_title[task["title"]] = task
    for name in card_groups()["mess"]:
        card = load_card(name)
        task = by_title[card.title.removeprefix("MESS: ").rpartition(", ")[0]]
        assert list(card.classes) == task["names"] and card.image_count == task["expected_images"]
        assert card.title.endswith(task["domain"]) and card.background is None
        chosen = list(card.classes_of_interest) or list(range(len(card.classes)))
        assert chosen == task["classes_of_interest"], name


def test_no_method_has_an_official_setting_there():
    told = nearest_published(resolve("clip", "mess-suim").as_dict(), "correct")
    assert told.remark.startswith("no configuration was published") and not told.as_dict()["official"]


@pytest.mark.slow
def test_only_present_members_run(ovbench, tmp_path, small_tiles):
    with pytest.raises(InputError, match="no benchmark of the group mess"):
        present_members(["mess"], tmp_path)
    card = load_card("mess-deepcrack")
    deepcrack(tmp_path / "DeepCrack")
    prepare(card, tmp_path, tmp_path / "DeepCrack")
    found = present_members(["voc21", "mess"], tmp_path)
    assert found.names == ["voc21", "mess-deepcrack"] and len(found.absent["mess"]) == 24
    line = ("--data-root", tmp_path)
    listed = ovbench("list", "datasets", *line)
    assert "1 of 25 present" in listed.out and "mess-suim" not in listed.out
    assert "mess-suim" in ovbench("list", "datasets", "--group", "mess", *line).out
    rows = {row["name"]: row for row in ovbench("list", "datasets", "--json", *line).json()}
    assert rows["mess-deepcrack"]["group"] == "mess" and rows["mess-deepcrack"]["state"] == "incomplete"
    verified = ovbench("data", "verify", "mess", "--partial", *line)
    assert verified.code == 3 and "mess-deepcrack: ok" in verified.out and "mess-suim" in verified.err
    assert "not confirmed: archive sizes and checksums" in verified.out


def test_a_group_is_prepared_as_far_as_its_downloads_are_there(ovbench, tmp_path):
    deepcrack(tmp_path / "downloads" / "DeepCrack")
    line = ("data", "prepare", "mess", "--source", tmp_path / "downloads", "--data-root", tmp_path / "data")
    (tmp_path / "data").mkdir()
    done = ovbench(*line)
    assert done.code == 0 and "mess-deepcrack: 2 files written" in done.out, done.err
    assert done.err.count("skipped: no ") == 24 and "mess-suim" in done.err
    assert "mess-deepcrack: nothing to do" in ovbench(*line).out
    (tmp_path / "empty").mkdir()
    none = ovbench("data", "prepare", "mess", "--source", tmp_path / "empty", "--data-root", tmp_path / "data")
    assert none.code == 3 and "found" in none.err
    alone = ovbench("data", "prepare", "mess-suim", *line[3:])
    assert alone.code == 3 and "no files of mess-suim found" in alone.err
    (tmp_path / "downloads/SUIM/TEST/masks").mkdir(parents=True)
    (tmp_path / "downloads/SUIM/TEST/images").mkdir()
    for name in ("masks/s1.bmp", "images/s1.jpg"):
        (tmp_path / "downloads/SUIM/TEST" / name).write_bytes(b"damaged")
    damaged = ovbench(*line)
    assert damaged.code == 3 and "mess-deepcrack: nothing to do" in damaged.out and "s1" in damaged.err


def test_pas_20b_scores_39_names_as_background(tmp_path):
    card = load_card("pas-20b")
    queries = vocabulary(card)
    assert card.background is None and card.classes[-1] == "background" and card.classes[0] == "aeroplane"
    assert [len(one) for one in queries] == [1] * 20 + [39] and "water" in queries[-1]
    root = tmp_path / "VOC2012"
    photo(root / "JPEGImages/a.jpg")
    save(root / "SegmentationClass/a.png", np.tile([[0, 1, 20, 255]], (6, 2)), palette=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("a\n")
    label = open_dataset(dataclasses.replace(card, image_count=1), tmp_path).read_label(0)
    assert label[0, :4].tolist() == [20, 0, 19, 65535]


def test_mapillary_at_full_size_has_the_classes_of_cityscapes():
    card = load_card("mapillary-full")
    assert card.classes == load_card("cityscapes").classes and len(card.classes) == 19
