"""The notebooks run on mini from top to bottom, and are stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


def cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, cell in enumerate(cells(path)):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), names)
    expected = {
        "label_an_image": lambda: names["labels"].max() <= 1 and names["segment"].classes[0] == "something red",
        "compare_a_method": lambda: list(names["table"].images) == [4, 4] and names["comparison"]["images"] == 4,
    }
    assert expected[path.stem]()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    assert cells(path) and not any(cell["outputs"] or cell["execution_count"] for cell in cells(path))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 2
