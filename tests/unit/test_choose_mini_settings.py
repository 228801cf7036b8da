"""The settings of mini are those of a search on drawings that are not scored."""

import importlib.util
from pathlib import Path

import pytest

from ovbench.config.load import resolve
from ovbench.data.mini.write import VALIDATION_IMAGES

SCRIPT = Path(__file__).parents[2] / "scripts" / "choose_mini_settings.py"
README = SCRIPT.parents[1] / "results" / "mini" / "README.md"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("choose_mini_settings", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_setting_is_chosen_after_the_other(script, monkeypatch):
    tried = []

    def score(method, benchmark, settings, work):
        tried.append(settings)
        return settings["b"] / 10 - abs(settings["a"] - 2)

    steps = [script.values("a", 1, 2, 3), script.values("b", 4, 4, 5)]
    monkeypatch.setattr(script, "SEARCHES", {"some": script.Search("mini", steps)})
    monkeypatch.setattr(script, "score", score)
    rows = list(script.search("some", None))
    assert [row.split("|")[-2].strip() for row in rows] == ["2", "5"]
    assert [tuple(one.values()) for one in tried] == [(1, 4), (2, 4), (3, 4), (2, 4), (2, 4), (2, 5)]


def test_the_drawings_are_not_scored(script):
    assert script.FIRST >= VALIDATION_IMAGES


def test_the_settings_of_mini_are_those_that_the_page_says_were_chosen(script):
    rows = [line.split("|") for line in README.read_text().splitlines() if ": " in line and line.startswith("| ")]
    chosen = {(row[1].strip(), row[3].strip()): row[5].strip() for row in rows}
    for method, (benchmark, steps) in script.SEARCHES.items():
        params = resolve(method, benchmark).params
        for step in steps:
            found = [str(getattr(params, name)) for name in step[0]]
            assert chosen.pop((method, ", ".join(step[0]))) == " and ".join(found)
    assert not chosen
