"""A result as one file, short ids, and lists of runs."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from report_runs import random_counts, write_run

from ovbench.evaluation.record import read_record
from ovbench.results.bundle import write_bundle
from ovbench.results.compare import load_run
from ovbench.results.gate import judge, read_baseline
from ovbench.results.gate_report import verdict_remarks
from ovbench.results.record_counts import read_counts
from ovbench.results.record_files import find_records
from ovbench.utils.files import read_json, write_json
from ovbench.utils.folders import folder_at

NAMES = ["sky", "grass", "road"]
FIRST, SECOND = "clip-mini-11111111-5e6f7a8b", "clip-mini-11111111-5e6f9999-first2"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs in ``runs``, with names as `eval` gives them."""
    for number, name in enumerate((FIRST, SECOND)):
        write_run(tmp_path / "runs", random_counts(np.random.default_rng(number), 5, 3), NAMES, name=name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture(params=["disk", "URL"])
def sent(request, tmp_path):
    """A folder for bundles."""
    if request.param == "disk":
        return tmp_path / "sent"
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    return folder_at(f"memory://{tmp_path.name}/sent")


@pytest.mark.quick(1)
def test_a_bundle_is_read_as_its_record(sent, runs, tmp_path, ovbench):
    first, second = runs / f"{FIRST}.json", runs / f"{SECOND}.json"
    done = ovbench("runs", "pack", first, second, "--out", sent, "--json")
    assert done.code == 0, done.err
    one, other = (sent / f"{name}.ovb.zip" for name in (FIRST, SECOND))
    assert [row["file"] for row in done.json()] == [str(one), str(other)]
    assert read_record(one) == read_record(first)
    packed, kept = read_counts(one, read_record(one)), read_counts(first, read_record(first))
    assert list(packed.counts) == list(kept.counts) and len(kept.counts) == 5
    assert all(np.array_equal(a, b) for i in kept.counts for a, b in zip(packed.counts[i], kept.counts[i], strict=True))
    assert [ovbench("compare", *pair, "--json").json() for pair in ((one, other), (first, second))] == [
        ovbench("compare", first, other, "--json").json()
    ] * 2
    assert [found.path for found in find_records(sent)] == [one, other]
    for words in (("report", one, "--images", 0, "--out", tmp_path / "a.html"), ("table", "--runs", sent)):
        done = ovbench(*words)
        assert done.code == 0 and "no confusions" not in done.err, done.err
    assert ovbench("runs", "list", "--runs", sent, "--json").json()[0]["images"] == 5


def test_a_table_shows_the_named_records_each_file_once(runs, ovbench):
    first = runs / f"{FIRST}.json"
    whole, one = ovbench("table"), ovbench("table", first)
    assert whole.code == one.code == 0 and whole.out != one.out  # one row, of the newer record
    assert ovbench("table", runs, first, runs).out == ovbench("table", "--runs", runs).out == whole.out
    assert ovbench("table", "5e6f7a8b").out == one.out
    assert "(nowhere.json)" in ovbench("table", "nowhere.json").err


@pytest.mark.slow
def test_a_bundle_is_a_baseline_of_the_gate(sent, runs, ovbench):
    path = runs / f"{SECOND}.json"
    content = read_json(path)
    write_json(path, {**content, "dataset": {**content["dataset"], "limit": 5}, "notes": ["clip is a toy"]})
    bundle = write_bundle(path, sent)
    base = read_baseline(bundle)
    assert base == read_baseline(path) and base.limit == 5 and len(base.cells[0].images) == 5
    verdict = judge(base.cells[0], load_run(bundle))
    assert verdict.passed and verdict.change == 0 and verdict_remarks([verdict])[0] == "warning: clip is a toy"
    for one in (bundle, path):
        done = ovbench("gate", "--baseline", one, "--update", "-m", "clip", "-d", "mini")
        assert done.code == 2 and "which a baseline must not replace" in done.err
    broken = ovbench("gate", "--baseline", "5e6f9999-first2")  # a short id; mini has no such images
    assert broken.code == 3 and "images of the baseline are not scored" in broken.err, broken.err


def test_equal_results_are_equal_files(runs, tmp_path):
    path = runs / f"{FIRST}.json"
    one = write_bundle(path, tmp_path / "a").read_bytes()
    part = runs / FIRST / "part-0.jsonl"
    head, *lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(head + b"".join(lines[::2]))  # as two processes would have written it
    (runs / FIRST / "part-1.jsonl").write_bytes(head + b"".join(lines[1::2]))
    os.utime(path, (1, 1))
    assert write_bundle(path, tmp_path / "b").read_bytes() == one
    bundle = tmp_path / "a" / f"{FIRST}.ovb.zip"
    assert write_bundle(bundle, tmp_path / "c").read_bytes() == one  # packed again
    assert len(one) < path.stat().st_size + part.stat().st_size


def test_a_bundle_beside_its_record_is_one_run(runs):
    write_bundle(runs / f"{FIRST}.json")
    assert sorted(found.path.name for found in find_records(runs)) == [f"{FIRST}.json", f"{SECOND}.json"]


@pytest.mark.slow
def test_a_short_id_is_a_record(runs, ovbench):
    assert ovbench("compare", "5e6f7", "5e6f9999-first2").code == 0
    assert ovbench("compare", "runs/5e6f7", SECOND).code == 0
    write_bundle(runs / f"{FIRST}.json")
    assert ovbench("compare", "5e6f7a8b", "5e6f9").code == 0
    several = ovbench("compare", "5e6f", "5e6f9")
    assert several.code == 2 and "beginning of 2 ids: 5e6f7a8b, 5e6f9999-first2; write more" in several.err
    missing = ovbench("compare", "77777777", "5e6f9")
    assert missing.code == 2 and "neither a file nor the id of a record in runs" in missing.err
    assert "cannot read the file" in ovbench("compare", "none.json", "5e6f9").err
    assert ovbench("plot", "classes", "5e6f7", "--out", "a.png").code == 0


def test_runs_are_listed_and_removed(runs, ovbench):
    rows = ovbench("runs", "list", "--json").json()
    assert {row["id"] for row in rows} == {"5e6f7a8b", "5e6f9999-first2"}
    assert ovbench("runs", "list", "-m", "corrclip", "--json").json() == []
    assert "5e6f7a8b" in ovbench("runs", "list", "-d", "mini").out
    shutil.copy(runs / f"{FIRST}.json", runs / "same-ledger.json")
    done = ovbench("runs", "rm", "5e6f7", "--yes")
    assert done.code == 0 and not (runs / f"{FIRST}.json").exists()
    assert (runs / FIRST).is_dir()  # another record needs it
    assert ovbench("runs", "rm", "same-ledger", "5e6f9", "--yes").out == "removed 2 runs\n"
    assert [path for path in runs.rglob("*") if path.suffix in (".json", ".jsonl")] == []


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: len(data) // 2], "archive"),
        (lambda data: data.replace(b"record.json", b"recorx.json"), "not a bundle"),
        (lambda data: b"", "archive"),
    ],
)
def test_a_damaged_bundle_is_one_sentence(change, message, runs, ovbench):
    bundle = write_bundle(runs / f"{FIRST}.json", runs / "x")
    bundle.write_bytes(change(bundle.read_bytes()))
    done = ovbench("compare", bundle, runs / f"{SECOND}.json")
    assert done.code == 3 and message in done.err, done.err
