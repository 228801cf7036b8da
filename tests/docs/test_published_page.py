"""docs/published.md says of every published figure of ovbench's methods whether a run measures it."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest

from ovbench.config.load import override_pairs, resolve
from ovbench.config.nearest_published import nearest_published
from ovbench.config.published_runs import published_runs
from ovbench.results.published import published_results
from ovbench.utils.registry import METHODS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
SECTIONS = {text.split("\n", 1)[0]: text for text in PAGE.split("\n## ")[1:]}


def maker():
    spec = importlib.util.spec_from_file_location("make_published_docs", ROOT / "scripts" / "make_published_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current():
    assert maker().page() == PAGE, "stale: run python scripts/make_published_docs.py"


def test_every_method_has_a_section():
    assert list(SECTIONS) == METHODS.names()


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("clip", "| `-m clip` |  |  |  | 41.8 | 9.2 | 4.4 | 5.5 | 2.1 |  |  | ClearCLIP README Table 2 |"),
        ("clip", "| CLIP: CLIP ViT-B/16 | CASS 2411.17150 Table 1 | voc21, pc60, coco-object, voc20, pc59, coco-stuff, "
                 "cityscapes, ade150 | the table has another protocol |"),
        ("corrclip", "| `-m corrclip --set regions=sam2-32` | 74.8 | 44.2 | 43.7 | 88.8 | 48.8 | 31.6 | 49.4 | 26.9 |"),
        ("corrclip", "EntitySeg, sam-masks | CorrCLIPv1 README"),
        ("freecp", "| `-m freecp --set base=clearclip` | 64.5 | 35.7 | 36.9 | 81.5 | 39.3 | 26.1 | 34.4 | 18.9 |"),
        ("ovstitcher", "With the published settings, except as stated above:"),
        ("reme", "ovbench has the settings of no published figure."),
        ("sclip", "No official setting on pc459, ade847: wangf3014/SCLIP has no configuration for it."),
    ],
)  # fmt: skip
def test_what_is_known_stands_in_its_section(method, line):
    assert line in SECTIONS[method]


@pytest.mark.slow
def test_a_command_of_the_page_measures_what_it_says():
    lines = [line for line in PAGE.splitlines() if line.startswith("| `-m ")]
    assert len(lines) > 30
    for line in lines:
        words = line.split("`")[1].replace("'", "").split(" ")
        settings, weights = (
            override_pairs(tuple(value for option, value in pairwise(words) if option == name), name)
            for name in ("--set", "--weights")
        )
        cell = resolve(words[1], "voc20", settings, weights, incomplete=True).as_dict()
        deviations = [one for one in nearest_published(cell, "correct").deviations if one.expected != "not known"]
        assert deviations == [], line


def test_no_source_is_forgotten():
    """Every figure of a method that has a run stands on the page, in one of the two tables."""
    runs = published_runs()
    ours = [row for row in published_results() if (row.method, row.variant, row.postprocess) in runs]
    assert len(ours) > 100
    for row in ours:
        if "[PAS-20b" not in row.note:
            section = SECTIONS[runs[row.method, row.variant, row.postprocess].method]
            assert row.reported_by.replace("[", r"\[") in section
