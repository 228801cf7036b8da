"""`ovbench reference` as a user types it."""

import json
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is an extra")
pytestmark = pytest.mark.skipif(not find_spec("textblob"), reason="TextBlob is an extra")  # not imported: takes seconds


@pytest.fixture
def built(ovbench, tmp_path):
    """A set of two small images, and what the command said."""
    (tmp_path / "images").mkdir()
    for name in "ab":
        image = np.full((64, 80, 3), (180, 40, 40), np.uint8)
        image[20:40, 20:60] = (40, 60, 180)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), image)
    rows = [{"image_id": name, "caption": "a blue box on red sand"} for name in "ab"]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = ovbench(
        "reference", "build", "--images", tmp_path / "images", "--captions", tmp_path / "captions.jsonl",
        "--out", tmp_path / "ref", "--like", "mini", "--workers", 1, "--set", "regions=slic",
        "--set", "regions.segments=4", "--device", "cpu",
    )  # fmt: skip
    return tmp_path / "ref", told


@pytest.mark.slow
def test_build_info_verify(built, ovbench):
    ref, told = built
    assert told.code == 0 and "planned:" in told.err and str(ref / "report.html") in told.out.replace("\n", "")
    assert ovbench("reference", "info", ref, "--json").json()["counts"]["images"] == 2
    assert "phrase mentions" in ovbench("reference", "info", ref).out
    whole = ovbench("reference", "verify", ref)
    assert whole.code == 0 and "intact" in whole.out
    (ref / "labels.parquet").write_bytes(b"")
    damaged = ovbench("reference", "verify", ref, "--json")
    assert damaged.code == 3 and "labels.parquet" in damaged.json()["problems"][0]


@pytest.mark.slow
def test_merge_with_other_filters(built, ovbench, tmp_path):
    done = ovbench("reference", "merge", built[0], "--out", tmp_path / "other", "--set", "synonyms=off", "--json")
    assert done.code == 0 and done.json()["counts"]["synonym_pairs"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("build", "--images", ".", "--out", "ref"), 2, "no captions given"),
        (("build", "--images", "nowhere", "--captions", "c.jsonl", "--out", "ref", "--like", "mini"), 2, "not exist"),
        (("build", "--images", ".", "--captions", "c.csv", "--out", "r", "--set", "filter=mean"), 2, "filter"),
        (("info", "nowhere"), 3, "no reference set"),
        (("verify", "nowhere"), 3, "no reference set"),
    ],
)
def test_mistakes_are_said_in_a_sentence(ovbench, arguments, code, message):
    told = ovbench("reference", *arguments)
    assert told.code == code and message in told.err and "Traceback" not in told.err


def test_the_method_asks_for_a_set(ovbench):
    told = ovbench("eval", "-m", "reme", "-d", "voc20")
    assert told.code == 2 and "needs a reference set" in told.err and "ovbench reference build" in told.err


@pytest.mark.slow
def test_approximate_search_is_named_and_measured_in_the_record(built, ovbench, tmp_path):
    pytest.importorskip("faiss", reason="FAISS is an extra")
    measured = ovbench("reference", "recall", built[0], "--topk", 2, "--probes", 1, "--rows", 20, "--json").json()
    assert 0 < measured[0]["recall"] <= 1
    faiss = ("--set", "search=faiss", "--set", "visual_topk=2", "--set", "probes=1")
    arguments = ("eval", "-m", "reme", "-d", "mini", "--limit", 1, "--set", f"reference={built[0]}")
    record = ovbench(*arguments, *faiss, "--out", tmp_path / "runs", "--device", "cpu", "--json").json()
    search = record["approximate"]["search"]
    assert record["cell"]["params"]["search"] == "faiss" and 0 < search["recall"] <= 1
    assert (search["by"], search["probes"], search["topk"]) == ("faiss", 1, 2)
    exact = ovbench(*arguments, "--out", tmp_path / "runs", "--device", "cpu", "--json").json()
    assert "approximate" not in exact
