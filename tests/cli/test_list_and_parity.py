"""`ovbench list` and `ovbench parity`."""

import json
import shutil
from pathlib import Path

import pytest

from ovbench.utils.registry import METHODS

CASE = Path(__file__).parents[1] / "data" / "parity" / "maskclip" / "base"


def test_methods_with_their_papers(ovbench):
    rows = ovbench("list", "methods", "--json").json()
    assert {row["method"] for row in rows} == set(METHODS.names())
    assert all(row["title"] and row["paper"] for row in rows)
    assert "CorrCLIP" in ovbench("list", "methods").out


def test_datasets(ovbench):
    rows = ovbench("list", "datasets", "--json").json()
    assert {"mini", "mini-bg", "voc21", "ade847"} <= {row["name"] for row in rows}


def test_parity_passes_prints_every_stage_and_agreement(ovbench):
    done = ovbench("parity", CASE)
    assert done.code == 0
    assert "maskclip/base: pass" in done.out and "w_window_logits" in done.out and "100.000 % equal" in done.out


@pytest.mark.slow
def test_parity_fails_with_one_and_still_reports_the_others(ovbench, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(CASE, bad)
    info = json.loads((bad / "case.json").read_text())
    info["params"]["logit_scale"] = 30
    (bad / "case.json").write_text(json.dumps(info))
    done = ovbench("parity", "--json", bad, CASE)
    assert done.code == 1 and [case["passed"] for case in done.json()] == [False, True]


def test_parity_cannot_read(ovbench, tmp_path):
    done = ovbench("parity", tmp_path / "nothing")
    assert done.code == 3 and "case.json" in done.err
    other = tmp_path / "other"
    shutil.copytree(CASE, other)
    (other / "case.json").write_text(json.dumps(json.loads((CASE / "case.json").read_text()) | {"method": "someseg"}))
    done = ovbench("parity", other)
    assert done.code == 3 and 'no parity check for the method "someseg"' in done.err
