"""Every parity and regression case of the repository passes, and so do the full ones; altered expectations do not."""

import io
import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ovbench.parity.adapters import ADAPTERS
from ovbench.parity.case import read_case
from ovbench.parity.check import check_case
from ovbench.parity.compare_stages import FAIL, NOT_COMPUTED
from ovbench.utils.errors import InputError

DATA = Path(__file__).parents[1] / "data"
OFFICIAL = DATA / "parity"
REGRESSION = DATA / "regression"
FULL = Path(__file__).parents[3] / "shared" / "parity"

# these have every stage; a new "not computed" must be a decision, not an accident
ALL_STAGES = {
    "cass", "clearclip", "corrclip", "corrclipv2", "dihclip", "freecp", "gem", "glaclip", "lposs", "maskclip", "naclip",
    "ovstitcher", "pearl", "proxyclip", "reme", "rfclip", "scclip", "sclip", "sfp", "talk2dino",
}  # fmt: skip
# their cases lie beside the checkout only; `test_official_steps` has the steps that no other method has
TOO_LARGE = {"corrclipv2", "dihclip", "glaclip", "lposs", "ovstitcher", "pearl", "rfclip", "scclip", "sfp"}
EQUATIONS = {"reme"}  # no official code exists; the expected values come from a NumPy reference of the equations


def cases(root):
    return [path.parent for method in sorted(ADAPTERS) for path in sorted(root.glob(f"{method}/*/case.json"))]


def names(folders):
    return ["/".join(folder.parts[-3:]) for folder in folders]


def check(folder):
    report = check_case(folder)
    assert report.rows
    assert [row.as_dict() for row in report.rows if row.verdict == FAIL] == []
    if folder.parent.name in ALL_STAGES:
        assert [row.stage for row in report.rows if row.verdict == NOT_COMPUTED] == []


@pytest.mark.quick(2)
@pytest.mark.parametrize("folder", cases(OFFICIAL), ids=names(cases(OFFICIAL)))
def test_a_parity_case_passes(folder):
    check(folder)


@pytest.mark.quick(1)
@pytest.mark.parametrize("folder", cases(REGRESSION), ids=names(cases(REGRESSION)))
def test_a_regression_case_passes(folder):
    check(folder)


@pytest.mark.slow
@pytest.mark.skipif(not FULL.is_dir(), reason="the full parity cases lie beside the checkout only")
def test_there_are_full_cases_of_every_method():
    assert {folder.parent.name for folder in cases(FULL)} >= ALL_STAGES


@pytest.mark.slow
@pytest.mark.parametrize("folder", cases(FULL) or [None], ids=names(cases(FULL)) or ["none"])
def test_a_full_case_passes(folder):
    if folder is None:
        pytest.skip("the full parity cases lie beside the checkout only")
    check(folder)


def test_a_case_lies_in_the_folder_of_its_kind():
    """Parity names its source outside this package; what was recorded from this package is called regression."""
    assert cases(OFFICIAL) and cases(REGRESSION)
    for folder in cases(OFFICIAL):
        raw = json.loads((folder / "case.json").read_text())
        equations = raw["method"] in EQUATIONS
        source = [raw["reference"]] if equations else [raw["official"][key] for key in ("repo", "commit")]
        assert all(source) and raw.get("kind") != "regression", folder
    for folder in cases(REGRESSION):
        raw = json.loads((folder / "case.json").read_text())
        assert raw["kind"] == "regression" and raw["official"] is None, folder


def test_every_method_with_an_adapter_has_cases_in_the_repository():
    assert {folder.parent.name for folder in cases(OFFICIAL) + cases(REGRESSION)} >= ALL_STAGES - TOO_LARGE
    assert {path.stem for path in (OFFICIAL / "steps").glob("*.npz")} == TOO_LARGE


def test_the_cases_stay_small():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 25_000_000


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(OFFICIAL / "maskclip" / "base", folder)
    return folder


def alter(folder, name, change):
    with np.load(folder / "expected.npz") as archive:
        arrays = dict(archive)
    arrays[name] = change(arrays[name])
    np.savez(folder / "expected.npz", **arrays)


@pytest.mark.quick(1)
@pytest.mark.parametrize("stage", ["w_patch_feature", "w_window_logits", "logits_full"])
def test_an_altered_stage_fails(copy, stage):
    def change(values):
        values[..., 0] += 0.01
        return values

    alter(copy, stage, change)
    report = check_case(copy)
    assert [row.stage for row in report.rows if row.verdict == FAIL] == [stage]


@pytest.mark.slow
def test_nan_in_the_expectation_fails(copy):
    alter(copy, "logits_full", lambda values: np.where(values == values.max(), np.nan, values))
    assert not check_case(copy).passed


def test_altered_labels_fail(copy):
    alter(copy, "labels", lambda labels: np.where(np.arange(labels.shape[1]) % 50 == 0, (labels + 1) % 9, labels))
    row = check_case(copy).rows[-1]
    assert row.verdict == FAIL and row.agreement < row.min_agreement


@pytest.mark.slow
def test_the_run_does_not_look_at_the_expectation(copy, monkeypatch):
    from ovbench.parity import check

    order = []
    monkeypatch.setattr(check, "run", lambda case, run=check.run: order.append("run") or run(case))
    original = check.read_case

    def read(folder):
        case = original(folder)
        (Path(folder) / "expected.npz").rename(Path(folder) / "hidden.npz")
        order.append("hidden")
        return case

    monkeypatch.setattr(check, "read_case", read)
    with pytest.raises(InputError, match=r"expected\.npz"):
        check_case(copy)
    assert order == ["hidden", "run"]


@pytest.mark.quick(5)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "case.json").unlink(), "cannot read the file"),
        (lambda f: (f / "case.json").write_text("{"), "malformed JSON"),
        (lambda f: (f / "inputs.npz").write_bytes(b"PK\x03\x04"), "cannot read the arrays"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"\x00" * 9), "damaged weights"),
        (lambda f: edit(f, format=2), '"format" must be 1, got 2'),
        (lambda f: edit(f, params=[]), '"params" must be a table'),
        (lambda f: edit(f, classes=["cat"]), r'"classes\[0\]" must be a list'),
        (lambda f: edit(f, stages={"x": {"atol": "1"}}), '"stages.x.atol" must be a number'),
        (lambda f: edit(f, stages={"x": {"atol": -1}}), '"stages.x.atol" must be a number of 0 or more'),
        (lambda f: edit(f, stages={"x": {"atol": math.inf}}), '"stages.x.atol" must be a finite number'),
        (lambda f: edit(f, stages={"x": {"atol_same_draws": math.nan}}), 'no tolerance in "atol_same_draws"'),
        (lambda f: edit(f, labels={"min_agreement": 0}), '"labels.min_agreement" must be a number above 0'),
        (lambda f: edit(f, variant={}), 'unknown key "variant"; did you mean "variants"'),
        (lambda f: edit(f, stages={"x": {"rtoll": 1}}), 'unknown key "rtoll"; did you mean "rtol"'),
        (lambda f: edit(f, labels={"min_agrement": 0.9}), '"labels" has the unknown key "min_agrement"'),
        (lambda f: edit(f, method="someseg"), 'no parity check for the method "someseg"'),
        (lambda f: edit(f, params={}), "lacks"),
        (lambda f: edit(f, models={"clip": {"kind": "rnn"}}), "unknown kind of model"),
    ],
)
def test_unreadable_cases_say_why(copy, damage, message):
    damage(copy)
    with pytest.raises(InputError, match=message):
        check_case(copy)


def edit(folder, **fields):
    path = folder / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_note_beside_the_key_that_it_resembles_is_no_mistake(copy):
    found = json.loads((copy / "case.json").read_text())
    edit(copy, param="as in the paper", labels=found["labels"] | {"array": "labels", "arrays": ["labels"]})
    assert read_case(copy).labels.name == "labels"


def test_arrays_that_unpack_to_more_than_they_may(copy, monkeypatch):
    monkeypatch.setattr("ovbench.parity.case.LARGEST", 1 << 20)
    np.savez_compressed(copy / "inputs.npz", image=np.zeros((2, 1 << 20), np.uint8))
    assert (copy / "inputs.npz").stat().st_size < 10_000
    with pytest.raises(InputError, match=r"the arrays take 2 MiB unpacked, more than 1 \(.*inputs.npz\)"):
        check_case(copy)


@pytest.mark.parametrize("form", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_altered_bytes_in_an_array(copy, form):
    content = io.BytesIO()
    np.save(content, np.random.default_rng(0).integers(0, 9, 5000))
    with zipfile.ZipFile(copy / "inputs.npz", "w", form) as archive:
        archive.writestr("image.npy", content.getvalue())
    data = bytearray((copy / "inputs.npz").read_bytes())
    data[1000:1040] = bytes(255 - value for value in data[1000:1040])
    (copy / "inputs.npz").write_bytes(data)
    with pytest.raises(InputError, match="cannot read the arrays"):
        check_case(copy)


def test_an_array_that_claims_more_than_it_holds(copy):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(copy / "inputs.npz", "w") as archive:
        archive.writestr("image.npy", header.getvalue() + bytes(8))
    with pytest.raises(InputError, match="cannot read the arrays"):
        check_case(copy)
