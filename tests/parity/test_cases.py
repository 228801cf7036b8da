"""Every case beside the checkout and every small one in it passes; altered expectations do not."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ovbench.errors import InputError
from ovbench.parity.adapters import ADAPTERS
from ovbench.parity.check import check_case
from ovbench.parity.compare import FAIL, NOT_COMPUTED

SMALL = Path(__file__).parents[1] / "data" / "parity"
FULL = Path(__file__).parents[3] / "shared" / "parity"
CASES = [folder for root in (SMALL, FULL) for method in sorted(ADAPTERS) for folder in sorted(root.glob(f"{method}/*"))]

# these have every stage; a new "not computed" must be a decision, not an accident
ALL_STAGES = {
    "cass", "clearclip", "corrclip", "freecp", "gem", "maskclip", "naclip", "proxyclip", "reme", "sclip", "talk2dino"
}  # fmt: skip


@pytest.mark.parametrize("folder", CASES, ids=["/".join(f.parts[-4:]) for f in CASES])
def test_case_passes(folder):
    report = check_case(folder)
    assert [row.as_dict() for row in report.rows if row.verdict == FAIL] == []
    if folder.parent.name in ALL_STAGES:
        assert [row.stage for row in report.rows if row.verdict == NOT_COMPUTED] == []


def test_every_method_with_an_adapter_has_a_small_case():
    assert {path.parent.name for path in SMALL.glob("*/*")} >= ALL_STAGES


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(SMALL / "maskclip" / "base", folder)
    return folder


def alter(folder, name, change):
    with np.load(folder / "expected.npz") as archive:
        arrays = dict(archive)
    arrays[name] = change(arrays[name])
    np.savez(folder / "expected.npz", **arrays)


@pytest.mark.parametrize("stage", ["w_patch_feature", "w_window_logits", "logits_full"])
def test_an_altered_stage_fails(copy, stage):
    def change(values):
        values[..., 0] += 0.01
        return values

    alter(copy, stage, change)
    report = check_case(copy)
    assert [row.stage for row in report.rows if row.verdict == FAIL] == [stage]


def test_nan_in_the_expectation_fails(copy):
    alter(copy, "logits_full", lambda values: np.where(values == values.max(), np.nan, values))
    assert not check_case(copy).passed


def test_altered_labels_fail(copy):
    alter(copy, "labels", lambda labels: np.where(np.arange(labels.shape[1]) % 50 == 0, (labels + 1) % 9, labels))
    row = check_case(copy).rows[-1]
    assert row.verdict == FAIL and row.agreement < row.min_agreement


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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "case.json").unlink(), "cannot read"),
        (lambda f: (f / "case.json").write_text("{"), "malformed JSON"),
        (lambda f: (f / "inputs.npz").write_bytes(b"PK\x03\x04"), "cannot read the arrays"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"\x00" * 9), "damaged weights"),
        (lambda f: edit(f, format=2), "case format 2"),
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


def test_arrays_that_unpack_to_more_than_they_may(copy, monkeypatch):
    monkeypatch.setattr("ovbench.parity.case.LARGEST", 1 << 20)
    np.savez_compressed(copy / "inputs.npz", image=np.zeros((2, 1 << 20), np.uint8))
    assert (copy / "inputs.npz").stat().st_size < 10_000
    with pytest.raises(InputError, match=r"the arrays take 2 MiB unpacked, more than 1 \(.*inputs.npz\)"):
        check_case(copy)


def test_an_array_that_claims_more_than_it_holds(copy):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(copy / "inputs.npz", "w") as archive:
        archive.writestr("image.npy", header.getvalue() + bytes(8))
    with pytest.raises(InputError, match="cannot read the arrays"):
        check_case(copy)
