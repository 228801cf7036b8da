"""docs/datasets.md knows every benchmark, every key of a card and every option of `ovbench data`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ovbench.cli.data import data
from ovbench.data.card import Card, Encoding, Layout, list_cards, load_card

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "datasets.md").read_text()
WRITTEN_OTHERWISE = {
    "layouts": "[[layout]]", "encodings": "`encodings`", "classes_file": "`classes`", "path": "card",
    "stated": "without any, class indices", "ignores_others": "`else`",
}  # fmt: skip


def test_every_key_is_explained():
    for kind in (Card, Layout, Encoding):
        for field in dataclasses.fields(kind):
            assert WRITTEN_OTHERWISE.get(field.name, f"`{field.name}`") in PAGE, field.name


def test_every_benchmark_and_command_is_named():
    assert len(list_cards()) == 12 and len(data.commands) > 2
    for name in set(list_cards()) - {"mini", "mini-bg"}:
        assert f"{name}" in PAGE and f"{load_card(name).image_count}" in PAGE
    for name, command in data.commands.items():
        assert f"ovbench data {name}" in PAGE and command.help


def test_the_example_card_is_valid(tmp_path):
    example = PAGE.split("## A benchmark of your own")[1].split("```toml\n")[1].split("```")[0]
    (tmp_path / "mine.toml").write_text(example)
    (tmp_path / "classes.txt").write_text("dog; puppy\ngrass\n")
    assert load_card(str(tmp_path / "mine.toml")).classes == ("dog", "grass")


@pytest.mark.parametrize("key", ["coco", "parquet"])
def test_the_layouts_of_annotations_and_tables_are_valid(key, tmp_path):
    blocks = [text.split("```")[0] for text in PAGE.split("```toml\n")[1:]]
    (block,) = (text for text in blocks if f"\n{key} = " in text)
    (tmp_path / "mine.toml").write_text(f'title = "mine"\nclasses = "classes.txt"\n{block}')
    (tmp_path / "classes.txt").write_text("dog; puppy\ngrass\n")
    (layout,) = load_card(str(tmp_path / "mine.toml")).layouts
    assert getattr(layout, key) and layout.image
