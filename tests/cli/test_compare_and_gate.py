"""`ovbench compare` and `ovbench gate` on runs over mini."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ovbench.results.compare import tables
from ovbench.results.console import as_text
from ovbench.results.gate import Verdict
from ovbench.results.gate_report import gate_markdown, verdict_table, write_junit

LIMIT = 12  # images enough for an interval
SMALL = ("--set", "short_side=112", "--set", "crop=112", "--set", "stride=56")  # a sixteenth of the pixels


made = {}  # paths of records by folder and settings


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def record(ovbench, runs, *more):
    if (runs, more) in made:
        return made[runs, more]
    done = ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", LIMIT, "--out", runs, "--json", *SMALL, *more)
    assert done.code == 0, done.err
    (made[runs, more],) = [line.split(": ", 1)[1] for line in done.err.splitlines() if line.startswith("record: ")]
    return made[runs, more]


@pytest.mark.slow
def test_compare_says_what_changed(ovbench, runs):
    first, second = record(ovbench, runs), record(ovbench, runs, "--set", "residual=false")
    found = ovbench("compare", first, second, "--json").json()
    assert found["images"] == LIMIT
    assert found["settings"] == [{"key": "params.residual", "first": True, "second": False}]
    low, high = found["interval"]
    assert low < found["mIoU_change"] < high
    one, two = (json.loads(Path(path).read_text())["metrics"]["mIoU"] for path in (first, second))
    assert found["mIoU_change"] == pytest.approx(two - one, abs=1e-12)
    same = ovbench("compare", first, first, "--json").json()
    assert same["mIoU_change"] == 0 and same["interval"] == [0, 0] and same["settings"] == []
    assert "mIoU change" in ovbench("compare", first, second).out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: {"schema": 1}, "not a complete record"),
        (lambda record: {**record, "cell": None}, '"cell" must be a table, got None'),
        (lambda record: {**record, "ledger": 7}, '"ledger" must be a text, got 7'),
        (lambda record: {**record, "ledger": "elsewhere"}, "no ledger beside the record"),
        (lambda record: {**record, "dataset": {**record["dataset"], "classes": [1]}}, '"dataset.classes[0]" must be'),
        (lambda record: {**record, "metrics": {**record["metrics"], "mIoU": float("nan")}}, '"metrics.mIoU"'),
        (lambda record: {**record, "statuss": ""}, 'unknown key "statuss"'),
        (lambda record: {**record, "schema": 99}, "a newer version of ovbench wrote the record: its schema is 99"),
        (lambda record: [record], "not a result record"),
    ],
)
def test_a_record_changed_by_hand_is_refused(ovbench, runs, tmp_path, change, message):
    first = record(ovbench, runs)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(change(json.loads(Path(first).read_text()))))
    done = ovbench("compare", first, path)
    assert done.code == 3 and message in done.err and ("changed.json" in done.err or "elsewhere" in done.err)


@pytest.mark.slow
def test_unlike_benchmarks_are_not_compared(ovbench, runs):
    first = record(ovbench, runs)
    done = ovbench("eval", "-m", "maskclip", "-d", "mini-bg", "--limit", 3, "--out", runs, "--json", *SMALL)
    (other,) = [line.split(": ", 1)[1] for line in done.err.splitlines() if line.startswith("record: ")]
    done = ovbench("compare", first, other)
    assert done.code == 3 and "not comparable" in done.err


@pytest.mark.slow
def test_few_images_have_no_interval(ovbench, runs, tmp_path):
    done = ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", 3, "--out", tmp_path, "--json", *SMALL)
    (path,) = tmp_path.glob("*.json")
    found = ovbench("compare", path, path, "--json").json()
    assert done.code == 0 and found["interval"] is None and found["no_interval"] == "fewer than 10 images"
    assert "no interval: fewer than 10" in ovbench("compare", path, path).out


@pytest.mark.slow
def test_gate_passes_what_is_equal_and_fails_what_was_broken(ovbench, tmp_path):
    """Dropping DINO's correlations and the map correction is what a broken CorrCLIP looks like."""
    base = tmp_path / "base.json"
    done = ovbench("gate", "--baseline", base, "--update", "-m", "corrclip", "-d", "mini", "--limit", LIMIT, *SMALL)
    assert done.code == 0, done.err
    files = ("--markdown", tmp_path / "gate.md", "--junit", tmp_path / "gate.xml")
    equal = ovbench("gate", "--baseline", base, "--json", *files, *SMALL)
    assert equal.code == 0 and equal.json()[0]["change"] == 0 and equal.json()[0]["low"] == 0
    assert "| corrclip on mini |" in (tmp_path / "gate.md").read_text()
    broken = ovbench(
        "gate", "--baseline", base, *files, *SMALL, "--set", "value=false", "--set", "scope=false",
        "--set", "mask_class_tokens=false", "--set", "map_correction=false",
    )  # fmt: skip
    assert broken.code == 5, broken.out
    assert "FAIL" in broken.out and "setting params.value was True, is False" in broken.err
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert suite.get("failures") == "1" and "mIoU fell from" in suite[0][0].get("message")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A baseline of one cell and three images."""
    return tmp_path_factory.mktemp("baseline") / "small.json"


@pytest.fixture
def baseline(ovbench, small, tmp_path):
    """``baseline(change)`` writes that baseline, changed in place by a function."""
    if not small.exists():
        assert ovbench("gate", "--baseline", small, "--update", "-m", "clip", "-d", "mini", "--limit", 3).code == 0

    def write(change=lambda content: None):
        content = json.loads(small.read_text())
        change(content)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(content))
        return path

    return write


def all_right(content):
    for image in content["cells"][0]["images"]:
        content["cells"][0]["images"][image] = [[0], [0], [100]]


@pytest.mark.slow
def test_with_few_images_the_tolerance_alone_decides(ovbench, baseline):
    done = ovbench("gate", "--baseline", baseline(all_right))
    assert done.code == 5 and "clip on mini: no interval, fewer than 10 images" in done.err
    assert ovbench("gate", "--baseline", baseline(all_right), "--tolerance", "100").code == 0


@pytest.mark.parametrize("tolerance", ["nan", "NaN", "inf", "-inf", "-1", "101", "1e400", "much"])
def test_a_tolerance_is_a_number_of_points(ovbench, baseline, tolerance):
    done = ovbench("gate", "--baseline", baseline(all_right), "--tolerance", tolerance)
    assert done.code == 2 and "--tolerance" in done.err


def at(*keys):
    """A function that sets or, with ``del``, removes what stands under these keys in a baseline."""
    *way, last, value = keys

    def change(content):
        for key in way:
            content = content[key]
        if value == "del":
            del content[last]
        else:
            content[last] = value

    return change


CELL = ("cells", 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "key"),
    [
        (at("limits", 3), 'unknown key "limits"'),
        (at(*CELL, "cell", "parms", {}), 'unknown key "cells[0].cell.parms"'),
        (at("schema", 2), '"schema" must be 1, got 2'),
        (at("limit", "x"), '"limit"'),
        (at("limit", -5), '"limit"'),
        (at("limit", True), '"limit"'),
        (at("limit", "del"), '"limit"'),
        (at("limit", 2), '"cells[0].images" has more than 2 images'),
        (at("cells", []), '"cells"'),
        (at("cells", {}), '"cells"'),
        (at("cells", [7]), '"cells[0]"'),
        (at(*CELL, "cell", "del"), '"cells[0].cell" is missing'),
        (at(*CELL, "cell", "method", 3), '"cells[0].cell.method"'),
        (at(*CELL, "cell", "protocol", "del"), '"cells[0].cell.protocol"'),
        (at(*CELL, "weights", "del"), '"cells[0].weights"'),
        (at(*CELL, "classes", []), '"cells[0].classes"'),
        (at(*CELL, "images", {}), '"cells[0].images" must be a table of 1 or more'),
        (at(*CELL, "images", "mini_0000", [[0], [0], [float("nan")]]), 'mini_0000[2][0]" must be a whole number'),
        (at(*CELL, "images", "mini_0000", [[0], [0], [-4]]), 'images.mini_0000[2][0]" must be a number above 0'),
        (at(*CELL, "images", "mini_0000", [[99], [0], [4]]), '"cells[0]" has counts of the image "mini_0000"'),
        (at(*CELL, "images", "mini_0000", [[0], [0, 1], [4]]), '"cells[0]" has counts of the image "mini_0000"'),
        (at(*CELL, "images", "mini_0000", [[0], [0], [2**70]]), '"cells[0].images.mini_0000[2][0]"'),
        (lambda content: content["cells"].append(content["cells"][0]), "clip on mini stands in the baseline twice"),
        (at(*CELL, "cell", "protocol", "crop", 96), 'setting "protocol.crop" of clip on mini is 96'),
        (at(*CELL, "cell", "protocol", "crop", "del"), 'setting "protocol.crop" of clip on mini is None'),
        (at(*CELL, "cell", "protocol", "logit_scale", float("nan")), 'setting "protocol.logit_scale"'),
        (at(*CELL, "cell", "backbones", "clip", "other"), 'setting "backbones.clip"'),
        (at(*CELL, "weights", "clip", "sha256", "0" * 64), 'weights of "clip" are not those of the baseline'),
    ],
)
def test_a_baseline_changed_by_hand_is_refused(ovbench, baseline, change, key):
    path = baseline(change)
    done = ovbench("gate", "--baseline", path)
    assert done.code == 3 and key in done.err and (str(path) in done.err or "clip on mini" in done.err), done.err


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--update",)])
def test_a_baseline_runs_no_code_that_the_command_does_not_name(ovbench, baseline, tmp_path, more):
    side, mark = tmp_path / "side.py", tmp_path / "it ran"
    side.write_text(f"open({str(mark)!r}, 'w')\nfrom ovbench.methods.clip import CLIP\nclass X(CLIP): pass\n")
    path = baseline(at(*CELL, "cell", "method", f"{side}:X"))
    done = ovbench("gate", "--baseline", path, *more)
    assert done.code == 2 and "names code outside ovbench" in done.err and not mark.exists(), done.err
    ovbench("gate", "--baseline", path, "-m", f"{side}:X", *more)
    assert mark.exists()


def test_options_that_would_be_ignored_are_refused(ovbench, baseline):
    path = baseline()
    assert ovbench("gate", "--baseline", path, "--limit", 2).code == 2
    assert ovbench("gate", "--baseline", path, "-d", "mini-bg").code == 2
    done = ovbench("gate", "--baseline", path, "-m", "clip", "-m", "corrclip")
    assert done.code == 2 and 'unknown method "corrclip"' in done.err


def test_names_of_a_verdict_are_text_everywhere(tmp_path):
    verdict = Verdict("m\x1b[2J|<b>`@me on\nmini", 0.5, 0.4, -0.1, None, None, "few", 0.002, [("k", "<i>", 1)], False)
    shown = as_text(verdict_table([verdict]))
    assert "\x1b" not in shown and "m\\x1b[2J|<b>" in shown.replace("\n", "")
    lines = gate_markdown([verdict]).splitlines()
    assert "m\\\\x1b\\[2J\\|&lt;b&gt;\\`&#64;me on mini" in lines[2] and "<i>" not in "".join(lines)
    write_junit(tmp_path / "gate.xml", [verdict])
    assert ElementTree.parse(tmp_path / "gate.xml").getroot()[0].get("name").startswith("m\\x1b")


def test_names_of_a_comparison_are_text():
    result = {
        "images": 12, "mIoU_change": 0.1, "interval": [0.0, 0.2], "warnings": ["x\x1b[2J"],
        "settings": [{"key": "k", "first": "\x1b[2J", "second": 1}],
        "classes": [{"class": "[red]wall\x1b[2J", "change": 0.1, "p_value": 0.01}],
        "moved_most": [{"image": "a\nb\u202ec", "change": 0.1}],
    }  # fmt: skip
    shown = as_text(*tables(result))
    assert "\x1b" not in shown and "\u202e" not in shown
    assert all(text in shown for text in ("[red]wall\\x1b[2J", "a\\nb\\u202ec"))


def test_bad_baselines(ovbench, tmp_path):
    (tmp_path / "no.json").write_text("{}")
    assert ovbench("gate", "--baseline", tmp_path / "no.json").code == 3
    assert ovbench("gate", "--baseline", tmp_path / "none.json").code == 3
    assert ovbench("gate", "--baseline", tmp_path / "new.json", "--update").code == 2


@pytest.mark.slow
def test_an_existing_baseline_is_measured_again(ovbench, tmp_path):
    base = tmp_path / "base.json"
    assert ovbench("gate", "--baseline", base, "--update", "-m", "maskclip", "-d", "mini", "--limit", 3).code == 0
    first, old = base.read_bytes(), json.loads(base.read_text())
    old["cells"][0]["images"].clear()
    base.write_text(json.dumps(old))
    assert ovbench("gate", "--baseline", base, "--update").code == 0
    assert base.read_bytes() == first
