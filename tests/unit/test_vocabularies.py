"""Changed class names and shipped distractors, and the table of the drop."""

from __future__ import annotations

import re

import pytest

from ovbench.config.load import resolve
from ovbench.config.suites import SuiteGroups
from ovbench.data.card import load_card, vocabulary
from ovbench.data.distractors import distractor_lists, read_distractors
from ovbench.data.vocabularies import changed_lists, changed_names
from ovbench.evaluation.queries import cell_queries
from ovbench.results.drop_table import drop_page, drop_rows
from ovbench.results.record_files import find_records
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.paths import shipped


def test_every_list_fits_its_benchmark():
    assert {"synonyms", "hypernyms", "de", "es", "fr", "zh"} == set(changed_lists())
    for kind, benchmarks in changed_lists().items():
        for name in benchmarks:
            card = load_card(name)
            made = changed_names(name, card.classes, kind)
            assert len(made) == len(card.classes) and all(len(one) == 1 and one[0].strip() for one in made)
            if card.background is not None:
                assert made[card.background] == ("background",)
    assert changed_lists()["synonyms"] == {
        "voc20", "voc21", "pc59", "pc60", "coco-object", "coco-stuff", "cityscapes", "ade150", "mini"
    }  # fmt: skip
    assert shipped("datasets", "vocabularies", "NOTICE").is_file()  # the licence of WordNet


def test_names_by_wordnet():
    """Looked up by hand in WordNet 3.0."""
    card = load_card("voc20")
    above = dict(zip(card.classes, vocabulary(card, "hypernyms"), strict=True))
    assert above["bus"] == ("public transport",) and above["chair"] == ("seat",) and above["cow"] == ("cattle",)
    same = dict(zip(card.classes, vocabulary(card, "synonyms"), strict=True))
    assert same["sofa"] == ("couch",) and same["bird"] == ("bird",) and same["pottedplant"] == ("pottedplant",)


def test_bare_names_are_the_first_ones():
    assert changed_names("x", ["wall, brick", "dog"], "bare") == (("wall",), ("dog",))
    assert vocabulary(load_card("mini"), "bare")[0] == ("sky",) != vocabulary(load_card("mini"))[0]


def test_a_missing_list_is_an_error_and_not_the_plain_names():
    with pytest.raises(UsageError, match='unknown change of the names of mini "de"'):
        vocabulary(load_card("mini"), "de")
    card = load_card("mini")
    with pytest.raises(UsageError, match='there is no list "cass" of the names of mini'):
        cell_queries(resolve("clip", "mini", {"vocabulary": "cass"}), card)
    pas = load_card("pas-20b")
    assert cell_queries(resolve("clip", "pas-20b"), pas).classes == vocabulary(pas)  # the method's own family


def test_distractors_are_no_names_of_the_benchmark():
    for name in changed_lists()["synonyms"]:
        assert distractor_lists(name) == ["far", "near"]
        for variant in (None, "bare"):
            queries = vocabulary(load_card(name), variant)
            taken = {query.casefold() for one in queries for query in one}
            for spec in ("near-40", "far-40"):
                found = read_distractors(spec, name, queries)
                assert len(set(found)) == 40 and not {one.casefold() for one in found} & taken
                assert read_distractors(spec.replace("40", "10"), name, queries) == found[:10]
    with pytest.raises(InputError, match="the list has"):
        read_distractors("near-9999", "voc20", (("a",),))


def record(digest, miou, images=10):
    return {
        "cell": {"method": "clip", "dataset": "mini"}, "settings_sha256": digest, "metrics": {"mIoU": miou},
        "status": "complete", "dataset": {"images": images, "split_images": 10},
    }  # fmt: skip


def test_drops_and_means():
    suite = SuiteGroups("clean", {"clean": "", "a": "g", "b": "g", "c": "g"})
    labels = {"0": "clean", "1": "a", "2": "b"}
    rows = drop_rows([record("0", 0.5), record("1", 0.4), record("2", 0.2, 5)], labels, suite)
    assert [row.label for row in rows] == ["clean", "a", "b", "mean of g (2 of 3)"]
    assert [row.drop for row in rows] == pytest.approx([0, 0.1, 0.3, 0.2])
    assert [row.relative for row in rows] == pytest.approx([0, 0.2, 0.6, 0.4])
    assert rows[3].miou == pytest.approx(0.3) and rows[3].spread == (0.2, 0.4) and rows[3].partial
    page = drop_page(rows).splitlines()
    assert "mean of g (2 of 3)" in page[-1] and "20.00 to 40.00" in page[-1] and "40.0 %" in page[-1]
    alone = drop_rows([record("1", 0.4), record("2", 0.2)], labels, SuiteGroups("", suite.groups))
    assert [row.drop for row in alone] == [None] * 3 and alone[2].spread == (0.2, 0.4)


@pytest.mark.slow
def test_the_vocabulary_suite_runs_in_one_pass(ovbench, tmp_path):
    small = ("--set", "short_side=112", "--set", "crop=112", "--set", "stride=56", "--set", "templates=simple_1")
    line = ("--suite", "class-names", "-m", "clip", "-d", "mini", "--limit", 1, "--out", tmp_path)
    page = tmp_path / "page.md"
    done = ovbench("eval", *line, *small, "--page", page)
    drops = page.read_text().partition("| method | benchmark | row | mIoU | drop | relative | spread |")[2]
    assert "mean of distractors (4)" in drops and re.search(r"bare names \| [^|]+ \| 0.00 \| 0.0 % ", drops)
    assert done.code == 0 and "mean of distractors (4)" in done.out and "mean of renamed (2)" in done.out, done.err
    records = [found.record for found in find_records(tmp_path)]
    assert len(records) == 8 and all(one["time"]["shared_with"] == ["mini"] * 8 for one in records)
    by_row = {one["arguments"]["row"]: one for one in records}
    assert by_row["bare names, far-40"]["dataset"]["distractors"] == 40
    assert len({str(one["counts"]) for one in records}) > 4
    table = ovbench("table", "--runs", tmp_path)
    assert "vocabulary=bare" in table.out and "distractors=near-40" in table.out
    missing = ovbench("table", "--suite", "class-names", "--runs", tmp_path)
    assert missing.code == 3 and "no record has the settings of a row" in missing.err
    drops = ovbench("table", "--suite", "class-names", "--runs", tmp_path, *small)
    assert drops.code == 0 and "| bare names |" in drops.out and "mean of distractors (4)" in drops.out
    assert ovbench("table", "--suite", "class-names", "--runs", tmp_path, "--metric", "fwIoU").code == 2
