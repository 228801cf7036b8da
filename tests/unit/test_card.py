"""Cards: what ships is valid, what a user writes is checked key by key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import raw_benchmarks as raw

from ovbench.data.card import list_cards, load_card, read_classes_file, vocabulary
from ovbench.data.classes import published_list
from ovbench.data.dataset import IGNORED, open_dataset
from ovbench.utils.errors import InputError, UsageError

TEN = {
    "voc21": (21, 0, 1449),
    "voc20": (20, None, 1449),
    "pc60": (60, 0, 5104),
    "pc59": (59, None, 5104),
    "pc459": (459, None, 5104),
    "coco-object": (81, 0, 5000),
    "coco-stuff": (171, None, 5000),
    "cityscapes": (19, None, 500),
    "ade150": (150, None, 2000),
    "ade847": (847, None, 2000),
}
FAMILIES = (
    "cass",
    "catseg",
    "clearclip",
    "corrclip",
    "corrclip_v1",
    "freecp",
    "naclip",
    "proxyclip",
    "sclip",
    "talk2dino",
)


@pytest.mark.parametrize("name", TEN)
def test_the_ten_benchmarks(name):
    card = load_card(name)
    assert (len(card.classes), card.background, card.image_count) == TEN[name]
    assert len(set(card.classes)) == len(card.classes) or name == "ade847"
    assert card.licence and card.citation and card.source
    assert card.background is None or card.classes[card.background] == "background"


def test_every_card_is_short_and_valid():
    assert set(list_cards()) == {*TEN, "mini", "mini-bg"}
    for name in list_cards():
        assert len(load_card(name).path.read_text().splitlines()) < 40


@pytest.mark.quick(10)
@pytest.mark.parametrize("name", TEN)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_query_list_for_every_benchmark(name, family):
    card = load_card(name)
    queries = vocabulary(card, family)
    assert len(queries) == len(card.classes)
    empty = [index for index, group in enumerate(queries) if not group]
    assert empty == ([0] if family == "talk2dino" and card.background == 0 else [])


def test_query_lists_are_word_for_word():
    count = {f: sum(map(len, vocabulary(load_card("voc21"), f))) for f in ("corrclip", "cass", "freecp", "clearclip")}
    assert count == {"corrclip": 46, "cass": 56, "freecp": 46, "clearclip": 21}
    assert vocabulary(load_card("cityscapes"), "corrclip")[11] == ("people, person",)
    assert vocabulary(load_card("cityscapes"), "corrclip_v1")[11] == ("people",)
    assert vocabulary(load_card("ade150"), "catseg")[7] == ("bed ",)
    assert vocabulary(load_card("pc60"), "corrclip")[59] == ("wood ",)
    assert vocabulary(load_card("voc20"), "naclip") == vocabulary(load_card("voc20"), "cass")
    assert vocabulary(load_card("ade847"), "cass") == vocabulary(load_card("ade847"))
    assert vocabulary(load_card("voc21"))[0] == ("background",)


def test_lists_and_tables_equal_the_collected_facts(samples):
    facts = samples.parent / "facts" / "datasets" / "vocab"
    index = json.loads((facts / "index.json").read_text())
    for name in TEN:
        key = name.replace("-", "_")
        fact, card = json.loads((facts / f"{key}.json").read_text()), load_card(name)
        assert list(card.classes) == fact["names"]
        for family, file in index[key].items():
            while file.startswith("same as "):
                file = index[key][file.removeprefix("same as ")]
            queries = json.loads((facts / file).read_text())["names"]
            assert [list(group) for group in vocabulary(card, family)] == queries, (name, family)


@pytest.mark.parametrize(
    ("name", "words", "from_list", "outside"),
    [("voc21", 39, None, "voc20"), ("pc60", 400, "pc459", "pc59"), ("coco-object", 91, "coco-stuff", "coco-object")],
)
def test_the_complement_is_other_benchmarks_names_as_background(name, words, from_list, outside):
    """None of them is a class of the benchmark, and the classes keep their name."""
    card = load_card(name)
    background, *classes = vocabulary(card, "complement")
    assert len(background) == len(set(background)) == words
    assert not set(background) & {*card.classes, *load_card(outside).classes}
    assert [queries[0] for queries in classes] == list(card.classes[1:]) and all(len(q) == 1 for q in classes)
    if from_list:
        assert set(background) == set(load_card(from_list).classes) - set(load_card(outside).classes)
    assert vocabulary(load_card("ade150"), "complement") == vocabulary(load_card("ade150"))


def test_mini_classes_are_those_of_its_world():
    from ovbench.data.mini import world

    assert list(vocabulary(load_card("mini"))) == world.classes()
    things = world.classes()[len(world.STUFF) :]
    assert vocabulary(load_card("mini-bg")) == (tuple(world.STUFF), *things)
    assert load_card("mini-bg").classes == ("background", *(names[0] for names in things))


def test_unknown_names_get_close_matches():
    with pytest.raises(UsageError, match=r'unknown dataset "ade105"; did you mean "ade150"'):
        load_card("ade105")
    with pytest.raises(UsageError, match=r'unknown name variant "corclip".*did you mean "corrclip"'):
        vocabulary(load_card("voc21"), "corclip")


SHORTEST = """
title = "toys"
classes = "toys.txt"
[[layout]]
image = "images/{id}.jpg"
label = "labels/{id}.png"
"""
CARD = """
title = "toys"
classes = "toys.txt"
image_count = 2
[encoding.plain]
void = [255]
[[layout]]
name = "only"
image = "im/{id}.jpg"
label = "gt/{id}.png"
encodings = ["plain"]
"""


@pytest.fixture
def write_card(tmp_path):
    def write(text: str = CARD) -> str:
        (tmp_path / "toys.txt").write_text("duck; rubber duck\nbear\n")
        (tmp_path / "toys.toml").write_text(text)
        return str(tmp_path / "toys.toml")

    load_card.cache_clear()
    return write


def test_a_users_card(write_card):
    card = load_card(write_card())
    assert card.name == "toys" and card.classes == ("duck", "bear")
    assert vocabulary(card) == vocabulary(card, "corrclip") == (("duck", "rubber duck"), ("bear",))


def test_a_card_is_called_as_it_says_and_never_like_a_shipped_one(write_card, tmp_path):
    assert load_card(write_card(CARD.replace("image_count = 2", 'name = "my-toys.v2"'))).name == "my-toys.v2"
    path = Path(write_card()).rename(tmp_path / "cityscapes.toml")
    with pytest.raises(InputError, match='called like the benchmark "cityscapes"'):
        load_card(str(path))
    path.write_text('name = "fog"' + CARD)
    load_card.cache_clear()
    assert load_card(str(path)).name == "fog" and not load_card(str(path)).is_shipped
    shipped = load_card("cityscapes")
    assert shipped.is_shipped and load_card(str(shipped.path)) == shipped


def test_the_shortest_card(write_card, tmp_path):
    card = load_card(write_card(SHORTEST))
    assert card.encodings[0].void == (255,) and card.layouts[0].encodings == ("index",)
    raw.photo(tmp_path / "images/one.jpg", 0)
    raw.label(tmp_path / "labels/one.png", raw.mosaic([0, 1, 255]))
    label = open_dataset(card, tmp_path).read(0).label
    assert set(label.ravel()) == {0, 1, IGNORED}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image_count", "image_cout", r'unknown key "image_cout".*did you mean "image_count"'),
        ("void", "viod", r'unknown key "encoding.plain.viod" \(.*did you mean "void"'),
        ("image =", "imgae =", r'unknown key "layout\[0\].imgae".*did you mean "image"'),
        ("= 2", '= "2"', r'"image_count" must be a whole number, got \'2\''),
        ("[255]", '["255"]', r'"encoding.plain.void\[0\]" must be a whole number, got \'255\''),
        ("{id}.png", "*.png", r'"label" must contain \{id\} once'),
        ('["plain"]', '["plane"]', r'unknown encoding "plane"'),
        ("[[layout]]", "[layout]", r'"layout" must be a list, got'),
        ("[encoding.plain]", "[encoding]", r'"encoding.void" must be a table, got \[255\]'),
        ('label = "gt/{id}.png"', "", r'"label" is missing.*layout\[0\]'),
        ('["plain"]', "[]", r'"layout\[0\].encodings" must be a list of 1 or more'),
        ("image_count = 2", "background = 2", r"background 2 is not a class, 0\.\.1"),
        ("image_count = 2", 'generator = "os:remove"', r'"generator" names code'),
        ('title = "toys"', "", r'"title" is missing'),
        ('title = "toys"', "title = ", r"malformed TOML"),
        ('"toys.txt"', '"nowhere.txt"', r"no class list"),
        ("image_count = 2", 'name = "../toys"', r'"name" must be a name of letters.*, got "\.\./toys"'),
        ("image_count = 2", 'name = ""', r'"name" must be a name of letters'),
        ("image_count = 2", 'name = "voc21"', r'called like the benchmark "voc21".*name = "my-voc21"'),
        ("image_count = 2", "is_shipped = true", r'unknown key "is_shipped"'),
    ],
)
def test_what_is_wrong_in_a_card_is_named(write_card, old, new, message):
    assert old in CARD
    with pytest.raises(InputError, match=message):
        load_card(write_card(CARD.replace(old, new)))


def test_a_missing_card_file():
    with pytest.raises(InputError, match="no file"):
        load_card("nowhere/card.toml")


def test_a_plugin_brings_a_card(write_card, monkeypatch):
    from importlib.metadata import EntryPoint

    path = Path(write_card())
    monkeypatch.syspath_prepend(path.parent)
    (path.parent / "toy_plugin.py").write_text(f"CARD = {str(path)!r}\n")
    point = EntryPoint("toybox", "toy_plugin:CARD", "ovbench.datasets")
    for module in ("card", "shipped_cards"):
        monkeypatch.setattr(f"ovbench.data.{module}.entry_points", lambda group: [point])
    assert load_card("toybox").title == "toys" and "toybox" in list_cards()


def test_classes_file(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes("\ufeffdog; puppy \r\n\r\n person, man;woman\r\n".encode())
    assert read_classes_file(path) == (("dog", "puppy"), ("person, man", "woman"))
    for content, message in ((b"", "no class"), (b";\n", "class 1 has no name"), (b"\xff\xfe", "not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_classes_file(path)
    with pytest.raises(InputError, match="no class list"):
        read_classes_file(tmp_path / "other.txt")


def test_the_table_of_shared_name_variants_is_checked(tmp_path):
    (tmp_path / "families.toml").write_text('toys = "corrclip"')
    with pytest.raises(InputError, match=r'"toys" must be a table, got \'corrclip\' .*families\.toml'):
        published_list(tmp_path / "toys.txt", "toys", "other")
