"""Queries that no label has: how they are read, what they cost, and that no record with them looks like a plain one."""

from __future__ import annotations

import numpy as np
import pytest

from ovbench.config.load import resolve
from ovbench.config.nearest_published import nearest_published
from ovbench.config.published_runs import PublishedRun
from ovbench.data.card import load_card, vocabulary
from ovbench.data.classes import read_class_list, read_classes_file
from ovbench.data.distractors import read_distractors
from ovbench.evaluation.queries import cell_queries
from ovbench.metrics.confusion import count_pixels
from ovbench.results.record_files import deviations_of, find_records, records_of_run
from ovbench.utils.errors import InputError, UsageError

SMALL = ("--set", "short_side=112", "--set", "crop=112", "--set", "stride=56", "--set", "templates=simple_1")


@pytest.fixture
def mini_list(tmp_path):
    """The class list of mini with distractors."""

    def write(*distractors, classes=None):
        names = classes or ["; ".join(queries) for queries in vocabulary(load_card("mini"))]
        (tmp_path / "list.txt").write_text("\n".join([*names, "[distractors]", *distractors]))
        return tmp_path / "list.txt"

    return write


def test_a_list_names_distractors_after_its_classes(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("# mine\ndog; puppy\ncat\n\n[distractors]\nzebra\n# far\nlamp post\nzebra\n")
    assert read_class_list(path) == ((("dog", "puppy"), ("cat",)), ("zebra", "lamp post"))
    with pytest.raises(InputError, match="only in an evaluation"):
        read_classes_file(path)
    path.write_text("dog; puppy\n[distractors]\nPuppy\n")
    with pytest.raises(InputError, match='distractor "puppy" is a query of class 0, "dog"'):
        read_class_list(path)
    path.write_text("[distractors]\nzebra\n")
    with pytest.raises(InputError, match="no class in the list"):
        read_class_list(path)
    path.write_text('["dog", "cat"]')
    assert read_class_list(path).distractors == ()


def test_a_card_may_have_distractors(tmp_path):
    (tmp_path / "names.txt").write_text("dog\ncat\n[distractors]\nzebra\n")
    (tmp_path / "pets.toml").write_text(
        'title = "pets"\nclasses = "names.txt"\n[[layout]]\nimage = "i/{id}.jpg"\nlabel = "l/{id}.png"\n'
    )
    card = load_card(str(tmp_path / "pets.toml"))
    assert card.classes == ("dog", "cat") and card.distractors == ("zebra",)
    queries = cell_queries(resolve("clip", "mini"), card)
    assert queries.all == (("dog",), ("cat",), ("zebra",)) and queries.given == ""


def test_a_file_of_distractors_is_a_setting(tmp_path):
    (tmp_path / "far.txt").write_text("zebra\nharp\n")
    card, spec = load_card("mini"), str(tmp_path / "far.txt")
    cell = resolve("clip", "mini", {"distractors": spec})
    assert cell_queries(cell, card).distractors == ("zebra", "harp")
    assert resolve("clip", "mini").digest() != cell.digest()
    (tmp_path / "far.txt").write_text("zebra\ngrass\n")
    with pytest.raises(InputError, match='"grass" is a query of class'):
        cell_queries(cell, card)
    with pytest.raises(UsageError, match="unknown list of distractors for mini"):
        read_distractors("nearest-9", "mini", card.classes)


@pytest.mark.slow
def test_counts_equal_a_reference(ovbench, tmp_path, mini_list):
    """A distractor takes pixels from classes; the other pixels keep their class."""
    line = ("eval", "-m", "clip", "-d", "mini", "--limit", 1, "--json", "--out", tmp_path / "runs", *SMALL)
    plain = ovbench(*line).json()
    given = ovbench(*line, "--classes", mini_list("a photograph", "green meadow", "stone floor")).json()
    one, other = (np.array([record["counts"][name] for name in ("intersection", "predicted", "labelled")])
                  for record in (plain, given))  # fmt: skip
    assert (one[2] == other[2]).all() and (other <= one).all() and other[1].sum() < one[1].sum()
    assert given["dataset"]["distractors"] == 3 and "distractors" not in plain["dataset"]
    assert given["metrics"]["aAcc"] == pytest.approx(other[0].sum() / other[2].sum(), abs=1e-12)
    # the record with the list is never the plain one
    assert given["dataset"]["class_list"].startswith("list.txt (")
    assert "classes: list.txt (" in deviations_of(given) and "classes" not in deviations_of(plain)
    settings = {"short_side": "112", "crop": "112", "stride": "56", "templates": "simple_1"}
    records = find_records(tmp_path / "runs")
    chosen = records_of_run(PublishedRun("clip"), records, ["mini"], "paper", settings)
    assert len(records) == 2 and chosen["mini"].record["counts"] == plain["counts"]
    told = nearest_published(resolve("clip", "voc20").as_dict(), "correct", classes="list.txt (0)")
    assert "classes=list.txt (0)" in told.sentence() and told.sources == ()


def test_a_distractor_counts_as_outside_the_classes():
    label = np.array([[0, 0, 1, 65535]], np.uint16)
    predicted = np.array([[0, 2, 3, 2]], np.uint16)  # 2 and 3 are distractors
    assert [tuple(map(int, row)) for row in zip(*count_pixels(predicted, label, 2), strict=True)] == [
        (0, 0, 1), (0, 2, 1), (1, 2, 1)
    ]  # fmt: skip


@pytest.mark.slow
def test_cells_with_other_prompts_or_distractors_share_their_features(ovbench, tmp_path, mini_list):
    (tmp_path / "far.txt").write_text("zebra\n")
    (tmp_path / "suite.toml").write_text(f"""
title = "prompts"
datasets = ["mini"]
[shared]
method = "clip"
settings = {{ short_side = 112, crop = 112, stride = 56, templates = "simple_1" }}
[[row]]
label = "photo"
[[row]]
label = "name"
settings = {{ templates = "identity_1" }}
[[row]]
label = "far"
settings = {{ distractors = "{tmp_path / "far.txt"}" }}
""")
    line = ("eval", "--suite", tmp_path / "suite.toml", "--limit", 1, "--json", "--out", tmp_path / "runs")
    done = ovbench(*line)
    assert done.code == 0, done.err
    records = done.json()
    assert [record["time"]["shared_with"] for record in records] == [["mini"] * 3] * 3
    alone = ovbench(*line[:1], "-m", "clip", "-d", "mini", *line[3:-1], tmp_path / "b", *SMALL,
                    "--set", "templates=identity_1").json()  # fmt: skip
    assert alone["counts"] == records[1]["counts"] != records[0]["counts"]
