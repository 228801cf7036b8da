"""``ovbench rerun``: a record repeated with its arguments."""

from __future__ import annotations

import json

import numpy as np
import pytest
from report_runs import random_counts, write_run

from ovbench.results.bundle import write_bundle

SMALL = ("short_side=56", "crop=56", "stride=28", "templates=identity_1")
WORDS = ("eval", "-m", "clip", "-d", "mini", "--device", "cpu", *(word for one in SMALL for word in ("--set", one)))


@pytest.mark.slow
def test_a_run_is_repeated_or_what_differs_is_named(ovbench, tmp_path):
    assert ovbench(*WORDS, "--limit", 1, "--out", tmp_path / "runs").code == 0
    (path,) = (tmp_path / "runs").glob("*.json")
    bundle = write_bundle(path, tmp_path / "sent")
    done = ovbench("rerun", bundle, "--out", tmp_path / "again")
    assert done.code == 0, done.err
    assert done.out.startswith("repeated exactly: the counts of all 1 images are equal, mIoU ")
    assert len(list((tmp_path / "again").glob("*.json"))) == 1
    record = json.loads(path.read_text())
    record["arguments"]["settings"] |= {"short_side": "112", "crop": "112"}
    path.write_text(json.dumps(record))
    done = ovbench("rerun", path, "--json")
    found = done.json()
    assert done.code == 1 and not found["exact"] and found["images"] == len(found["other_counts"]) == 1
    assert {"setting": "cell.protocol.crop", "then": 56, "now": 112} in found["differing"]


def test_a_record_that_cannot_be_repeated_says_why(ovbench, tmp_path):
    path = write_run(tmp_path, random_counts(np.random.default_rng(0), 3, 2), ["a", "b"])
    assert "the record has no arguments" in ovbench("rerun", path).err
    record = json.loads(path.read_text())
    record["arguments"] = {"method": "mine.py:Mine", "dataset": "mini"}
    path.write_text(json.dumps(record))
    done = ovbench("rerun", path)
    assert done.code == 2 and "give --run-code" in done.err
