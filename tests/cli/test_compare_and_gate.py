"""`ovbench compare` and `ovbench gate` on runs over mini."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def record(ovbench, runs, *more):
    done = ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", 3, "--out", runs, "--json", *more)
    assert done.code == 0, done.err
    (path,) = [line.split(": ", 1)[1] for line in done.err.splitlines() if line.startswith("record: ")]
    return path


def test_compare_says_what_changed(ovbench, runs):
    first, second = record(ovbench, runs), record(ovbench, runs, "--set", "residual=false")
    found = ovbench("compare", first, second, "--json").json()
    assert found["images"] == 3
    assert found["settings"] == [{"key": "params.residual", "first": True, "second": False}]
    low, high = found["interval"]
    assert low <= found["mIoU_change"] <= high
    one, two = (json.loads(Path(path).read_text())["metrics"]["mIoU"] for path in (first, second))
    assert found["mIoU_change"] == pytest.approx(two - one, abs=1e-12)
    same = ovbench("compare", first, first, "--json").json()
    assert same["mIoU_change"] == 0 and same["interval"] == [0, 0] and same["settings"] == []
    assert "mIoU change" in ovbench("compare", first, second).out


def test_unlike_benchmarks_are_not_compared(ovbench, runs):
    first = record(ovbench, runs)
    done = ovbench("eval", "-m", "maskclip", "-d", "mini-bg", "--limit", 3, "--out", runs, "--json")
    (other,) = [line.split(": ", 1)[1] for line in done.err.splitlines() if line.startswith("record: ")]
    done = ovbench("compare", first, other)
    assert done.code == 3 and "not comparable" in done.err


def test_gate_passes_what_is_equal_and_fails_what_was_broken(ovbench, tmp_path):
    """Dropping DINO's correlations and the map correction is what a broken CorrCLIP looks like."""
    base = tmp_path / "base.json"
    done = ovbench("gate", "--baseline", base, "--update", "-m", "corrclip", "-d", "mini", "--limit", 6)
    assert done.code == 0, done.err
    files = ("--markdown", tmp_path / "gate.md", "--junit", tmp_path / "gate.xml")
    equal = ovbench("gate", "--baseline", base, "--json", *files)
    assert equal.code == 0 and equal.json()[0]["change"] == 0
    assert "| corrclip on mini |" in (tmp_path / "gate.md").read_text()
    broken = ovbench(
        "gate", "--baseline", base, *files, "--set", "value=false", "--set", "scope=false",
        "--set", "mask_class_tokens=false", "--set", "map_correction=false",
    )  # fmt: skip
    assert broken.code == 5, broken.out
    assert "FAIL" in broken.out and "setting params.value was True, is False" in broken.err
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert suite.get("failures") == "1" and "mIoU fell from" in suite[0][0].get("message")


def test_bad_baselines(ovbench, tmp_path):
    (tmp_path / "no.json").write_text("{}")
    assert ovbench("gate", "--baseline", tmp_path / "no.json").code == 3
    assert ovbench("gate", "--baseline", tmp_path / "none.json").code == 3
    assert ovbench("gate", "--baseline", tmp_path / "new.json", "--update").code == 2


def test_an_existing_baseline_is_measured_anew(ovbench, tmp_path):
    base = tmp_path / "base.json"
    assert ovbench("gate", "--baseline", base, "--update", "-m", "maskclip", "-d", "mini", "--limit", 3).code == 0
    first, old = base.read_bytes(), json.loads(base.read_text())
    old["cells"][0]["images"].clear()
    base.write_text(json.dumps(old))
    assert ovbench("gate", "--baseline", base, "--update").code == 0
    assert base.read_bytes() == first
