"""Records and ledgers that older versions wrote are read by every command that reads any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovbench.evaluation.ledger import read_header, read_ledger
from ovbench.evaluation.record import read_record

HERE = Path(__file__).parent
RECORDS = sorted(HERE.glob("*.json"))
IDS = ["mini_0000", "mini_0001"]


def test_there_are_records():
    assert [path.name.split("-")[0] for path in RECORDS] == ["maskclip", "naclip"]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_ledger_is_read(path):
    folder = HERE / json.loads(path.read_text())["ledger"]
    read = read_ledger(folder, read_header(folder))
    assert list(read) == IDS and not read.damaged
    assert all(entry.counts.pixels.sum() > 0 and entry.data is None and entry.run is None for entry in read.values())


@pytest.mark.slow
def test_table_compare_report_and_plot(ovbench, tmp_path):
    table = ovbench("table", "--runs", HERE, "--format", "json")
    assert table.code == 0, table.err
    scores = [row["cells"]["mini"]["measured"] for row in table.json()["rows"]]
    assert scores == [pytest.approx(100 * json.loads(path.read_text())["metrics"]["mIoU"]) for path in RECORDS]
    compared = ovbench("compare", *RECORDS, "--json")
    assert compared.code == 0 and compared.json()["images"] == 2, compared.err
    page = tmp_path / "report.html"
    reported = ovbench("report", HERE, "--images", 0, "--out", page)
    assert reported.code == 0 and "no confusions" not in page.read_text(), reported.err


@pytest.mark.slow
def test_a_new_run_neither_uses_nor_touches_them(ovbench, tmp_path):
    import shutil

    for path in (*RECORDS, *HERE.glob("*/part-0.jsonl")):
        copy = tmp_path / path.relative_to(HERE)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", 1, "--json", "--out", tmp_path)
    assert done.code == 0 and done.json()["time"]["images_counted_now"] == 1, done.err
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_an_interval_of_an_earlier_form_is_not_shown(tmp_path):
    """It was percentiles of a bootstrap, biased where classes are rare."""
    old = json.loads(RECORDS[0].read_text())
    old["metrics"]["mIoU_interval"] = [0.1, 0.2]
    (tmp_path / "old.json").write_text(json.dumps(old))
    metrics = read_record(tmp_path / "old.json")["metrics"]
    assert old["schema"] == 1 and metrics["mIoU_interval"] is None and "bootstrap" in metrics["mIoU_no_interval"]
