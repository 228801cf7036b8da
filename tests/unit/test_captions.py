"""Captions files and their match with a folder of images."""

import json

import pytest

from ovbench.training.caption_files import ImageCaption, index_captions, read_captions
from ovbench.training.talk2dino.captioned_images import pair
from ovbench.utils.errors import InputError

EXPECTED = [
    ImageCaption("a.jpg", "a red ring"), ImageCaption("b.jpg", 'a "ball", blue'), ImageCaption("a.jpg", "grass")
]  # fmt: skip


def coco():
    names = {7: "a.jpg", 9: "b.jpg"}
    ids = {name: number for number, name in names.items()}
    return {
        "images": [{"id": number, "file_name": name} for number, name in names.items()],
        "annotations": [{"image_id": ids[c.image], "caption": c.text} for c in EXPECTED],
    }


FILES = {
    "c.json": json.dumps(coco()),
    "c.jsonl": "\n".join(json.dumps({"image": c.image, "caption": c.text}) for c in EXPECTED) + "\n\n",
    "c.csv": 'image,caption\na.jpg,a red ring\nb.jpg,"a ""ball"", blue"\na.jpg,grass\n',
}


@pytest.mark.parametrize("name", FILES)
def test_every_form_says_the_same(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    assert read_captions(tmp_path / name) == EXPECTED


def test_a_line_may_hold_several_captions(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"file_name": "a.jpg", "captions": ["one", "two"]}')
    assert [c.text for c in read_captions(tmp_path / "c.jsonl")] == ["one", "two"]


def test_a_line_may_hold_a_line_separator_of_unicode(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"image": "a.jpg", "caption": "one\u2028two"}\n', encoding="utf-8")
    assert read_captions(tmp_path / "c.jsonl") == [ImageCaption("a.jpg", "one\u2028two")]


@pytest.mark.parametrize("name", FILES)
def test_every_form_is_looked_up_by_image(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    captions = index_captions(tmp_path / name, key=lambda image: image.removesuffix(".jpg"))
    assert captions("a") == ["a red ring", "grass"] and captions("b") == ['a "ball", blue'] and captions("c") == []


def test_lines_of_one_image_are_looked_up_whole(tmp_path):
    """With a byte order mark, ids that are numbers, several captions in a line, and blank ones."""
    lines = '{"image_id": 7, "captions": ["o\u00f1e", " "]}', "", '{"image_id": 8, "caption": "x"}'
    (tmp_path / "c.jsonl").write_text("\n".join((*lines, '{"image_id": 7, "caption": "two"}')), encoding="utf-8-sig")
    assert index_captions(tmp_path / "c.jsonl", key=str)("7") == ["o\u00f1e", "two"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", '{"images": [],\n "annotations": [}', "broken JSON in line 2, column 18"),
        ("c.json", '{"images": []}', "not a COCO captions file: no 'annotations'"),
        ("c.json", "[]", "not a COCO captions file: another structure"),
        ("c.json", '{"images": [], "annotations": []}', "no captions in the file"),
        ("c.jsonl", '{"image": "a.jpg", "caption": "x"}\n{"image": ', "broken JSON in line 2"),
        ("c.jsonl", '{"image": "a.jpg"}', 'line 1 has no "caption"'),
        ("c.jsonl", '{"image": "a.jpg", "caption": 3}', "must be text"),
        ("c.jsonl", "3", 'line 1 has no "image"'),
        ("c.csv", "image,caption\na.jpg,a, b\n", "line 2 has another number of fields"),
        ("c.csv", "name,caption\na.jpg,a\n", 'line 2 has no "image"'),
        ("c.csv", 'image,caption\na.jpg,"a', "broken CSV in line 2"),
        ("c.txt", "a", "not a known format"),
    ],
)
def test_broken_files_say_where(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_captions(tmp_path / name)


def test_missing_and_undecodable_files(tmp_path):
    with pytest.raises(InputError, match="no captions file"):
        read_captions(tmp_path / "c.json")
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="not UTF-8"):
        read_captions(tmp_path / "c.csv")


def test_pairs_and_what_has_no_counterpart(tmp_path):
    for name in ("b.jpg", "a.jpg", "sub/c.PNG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    captions = [*EXPECTED, ImageCaption("gone.jpg", "x"), ImageCaption("gone.jpg", "y"), ImageCaption("a.jpg", " ")]
    pairs, unpaired = pair(tmp_path, captions)
    assert pairs.names == ("a.jpg", "b.jpg") and pairs.image_of == (0, 1, 0)
    assert unpaired.captions == ("gone.jpg",) and unpaired.images == ("sub/c.PNG",) and unpaired.blank == ("a.jpg",)
    assert "1 images without a caption (sub/c.PNG)" in unpaired.describe()
    assert len(unpaired.lines()) == 3
    with pytest.raises(InputError, match="no image folder"):
        pair(tmp_path / "none", captions)


def test_a_caption_of_an_image_that_coco_does_not_list_is_unpaired(tmp_path):
    document = coco()
    document["annotations"].append({"image_id": 404, "caption": "x"})
    (tmp_path / "c.json").write_text(json.dumps(document))
    assert read_captions(tmp_path / "c.json")[-1].image == "image_id 404"
