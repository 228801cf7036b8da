"""Blocks of README and docs that hold no commands: each is tested, here or in the file that TESTED names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ovbench.data.card import load_card
from ovbench.data.classes import read_class_list
from ovbench.data.descriptions import read_set
from ovbench.data.find import data_roots
from ovbench.data.user_config import config_file
from ovbench.utils.registry import GROUPS
from ovbench.utils.toml import read_toml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
TESTED = {  # the blocks of a page in order, and by which file each is tested
    "README.md": ("python test_commands", "toml here", "toml test_commands"),
    "add-method.md": ("python test_commands", "toml here", "python here", "toml here", "text test_method_faults"),
    "api.md": ("python test_doctests",) * 5,
    "datasets.md": (
        "toml here",
        "toml test_datasets_page",
        "toml here",
        "toml here",
        "toml test_datasets_page",
        "toml test_datasets_page",
    ),
    "freecp.md": ("json here",),
    "record.md": ("python here",),
    "robustness.md": ("text here",),
}
ENTRY_POINTS = (("README.md", 1), ("add-method.md", 1), ("add-method.md", 3))


def blocks(name: str) -> list[tuple[str, str]]:
    """Language and text of the blocks of a page that name a language; commands have none."""
    (page,) = (page for page in PAGES if page.name == name)
    found = FENCED.findall(page.read_text(encoding="utf-8"))
    return [(language, text) for _, language, text in found if language not in ("sh", "bash", "console")]


def test_no_block_is_forgotten():
    known = {name: [one.split()[0] for one in tested] for name, tested in TESTED.items()}
    found = {page.name: [language for language, _ in blocks(page.name)] for page in PAGES}
    assert {name: languages for name, languages in found.items() if languages} == known


@pytest.mark.parametrize(("page", "number"), ENTRY_POINTS)
def test_an_entry_point_has_a_known_group_and_names_a_module(tmp_path, page, number):
    (tmp_path / "pyproject.toml").write_text(blocks(page)[number][1])
    ((group, entries),) = read_toml(tmp_path / "pyproject.toml")["project"]["entry-points"].items()
    assert group in GROUPS and entries
    assert all(re.fullmatch(r"\w+(\.\w+)*(:\w+)?", target) for target in entries.values())


def test_the_backbone_of_a_method_loads_and_is_what_the_method_needs():
    names: dict[str, object] = {"torch": torch}
    text = blocks("add-method.md")[2][1]
    assert text.count("network = ...") == 1
    exec(compile(text.replace("network = ...", "network = torch.nn.Linear(1, 1)"), "add-method.md", "exec"), names)
    loaded = names["load_radio"]("a name")
    assert loaded.use.patch == 16 and loaded.use.normalisation.mean == (127.5,) * 3 and len(loaded.sha256) == 64
    assert "radio" in names["Mine"].needs.backbones and names["Mine"].sees == "radio"


def test_the_config_file_of_the_page_names_the_data_roots(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    text = blocks("datasets.md")[0][1]
    wanted = [path for path in re.findall(r'"(/[^"]+)"', text) if not path.endswith(".toml")]
    for folder in wanted:
        text = text.replace(f'"{folder}"', f'"{tmp_path}{folder}"')
        (tmp_path / folder[1:]).mkdir(parents=True)
    config_file().parent.mkdir()
    config_file().write_text(text)
    assert len(wanted) == 2 and [str(root) for root in data_roots()] == [f"{tmp_path}{folder}" for folder in wanted]


@pytest.mark.parametrize(
    ("number", "classes", "name", "field", "value"),
    [
        (2, "background\nlesion\n", "mask", "values", (0, 255)),
        (3, "a\nb\nc\n", "colour", "colours", ((255, 0, 0), (0, 255, 0), (0, 0, 255))),
    ],
)
def test_an_encoding_of_the_page_belongs_to_a_card(tmp_path, number, classes, name, field, value):
    (tmp_path / "mine.toml").write_text(blocks("datasets.md")[1][1] + blocks("datasets.md")[number][1])
    (tmp_path / "classes.txt").write_text(classes)
    (encoding,) = load_card(str(tmp_path / "mine.toml")).encodings
    assert encoding.name == name and getattr(encoding, field) == value


def test_the_descriptions_of_the_page_are_read(tmp_path):
    (tmp_path / "said.json").write_text(blocks("freecp.md")[0][1])
    made = read_set(tmp_path / "said.json")
    assert made.vocabulary == "voc21" and made.descriptions["cat"][0] == "A cat has soft fur."


def test_the_class_list_of_the_page_has_distractors(tmp_path):
    (tmp_path / "classes.txt").write_text(blocks("robustness.md")[0][1])
    found = read_class_list(tmp_path / "classes.txt")
    assert found.classes == (("dog", "puppy"), ("cat",)) and found.distractors == ("zebra", "lamp post")


def test_the_schema_of_the_page_is_that_of_a_record():
    names: dict[str, dict] = {}
    exec(compile(blocks("record.md")[0][1], "record.md", "exec"), names)
    assert "counts" in names["schema"]["properties"]
