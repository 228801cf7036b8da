"""Columns that are means over benchmarks: the sets and the domains of MESS."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from ovbench.config.load import resolve
from ovbench.data.shipped_cards import card_groups
from ovbench.results.combined_columns import combined_rows, entries_of, members
from ovbench.results.layouts import load_layout
from ovbench.results.record_files import RecordFile
from ovbench.results.tables import layout_table
from ovbench.results.writers import FORMATS


def found(dataset, miou, images=10, **settings):
    cell = resolve("clip", dataset, settings)
    record = {
        "cell": cell.as_dict(), "status": "complete", "metrics": {"mIoU": miou}, "arguments": {"protocol": "paper"},
        "dataset": {"images": images, "split_images": 10, "label_rule": "correct"}, "weights": {}, "device": {},
        "time": {"started": "2026"}, "code": {"ovbench": "a"},
    }  # fmt: skip
    return RecordFile(Path(f"{dataset}.json"), record)


def values_of(row, layout):
    return {column: cell.measured for column, cell in zip(layout.columns, row.cells, strict=True)}


def test_the_layouts_have_every_task_of_mess_once():
    for name in ("mess-datasets", "mess-domains"):
        layout = load_layout(name)
        tasks = [task for entries in layout.benchmarks.values() for entry in entries for task in members(entry)]
        assert sorted(tasks) == sorted(card_groups()["mess"])
    layout = load_layout("mess-domains")
    assert len(layout.benchmarks) == 5 and len(entries_of(layout, "Mean")) == 22


def test_domain_means_count_paxray_as_one_set():
    layout = load_layout("mess-domains")
    tasks = card_groups()["mess"]
    records = [found(task, 0.01 * number) for number, task in enumerate(tasks, 1)]
    made = combined_rows(layout, records)
    (row,) = made.rows
    score = {task: 1.0 * number for number, task in enumerate(tasks, 1)}
    paxray = fmean(score[task] for task in tasks if "paxray" in task)
    medical = fmean([score["mess-kvasir-instrument"], score["mess-chase-db1"], score["mess-cryonuseg"], paxray])
    values = values_of(row, layout)
    assert values["Medical Sciences"] == pytest.approx(medical) and row.label == "clip" and not made.notes
    others = [score[task] for task in tasks if "paxray" not in task]
    assert values["Mean"] == pytest.approx(fmean([*others, paxray])) and len(others) == 21
    sets = load_layout("mess-datasets")
    (row,) = combined_rows(sets, records).rows
    assert values_of(row, sets)["PAXRay-4"] == pytest.approx(paxray)


def test_a_mean_over_a_part_is_not_shown():
    layout = load_layout("mess-domains")
    suite = ["mess-suim", "mess-cub-200", "mess-cwfid", "mess-deepcrack"]
    made = combined_rows(layout, [found(task, 0.3) for task in suite])
    values = values_of(made.rows[0], layout)
    assert values["Agriculture and Biology"] == pytest.approx(30) and values["Engineering"] is None
    assert values["Mean"] is None and "clip: no Engineering, 1 of its 4 benchmarks are measured" in made.notes
    mixed = combined_rows(layout, [found(task, 0.3, crop="336" if "suim" in task else "448") for task in suite])
    assert len(mixed.rows) == 2 and all(values_of(row, layout)["Mean"] is None for row in mixed.rows)
    partial = combined_rows(layout, [found(task, 0.3, images=5) for task in suite])
    assert partial.rows[0].cells[layout.columns.index("Agriculture and Biology")].partial


def test_measured_rows_stand_in_the_table_of_mess():
    layout = load_layout("mess-datasets")
    made = combined_rows(layout, [found("mess-suim", 0.2)])
    table = layout_table(layout, [], more=made.rows, measurable=list(layout.benchmarks))
    assert table.rows[-1].group == "measured" and not any("cannot measure" in note for note in table.notes)
    assert "20.0" in FORMATS["markdown"](table, False)
    assert not combined_rows(load_layout("corrclip-table1"), [found("mess-suim", 0.2)]).rows


def test_the_table_of_pas_20b_has_measured_rows_with_their_label_rule():
    layout = load_layout("catseg-table1")
    wide = found("pc459", 0.1)
    wide.record["dataset"]["label_rule"] = "official"
    (row,) = combined_rows(layout, [found("pas-20b", 0.5), wide, found("voc21", 0.9)]).rows
    cells = dict(zip(layout.columns, row.cells, strict=True))
    assert cells["PAS-20b"].measured == pytest.approx(50) and cells["PAS-20b"].rule is None
    assert cells["pc459"].rule == "official" and cells["pc459"].record == "pc459.json"
    assert cells["ade150"].measured is None


def test_corrupted_records_are_rows_of_their_own():
    layout = load_layout("mess-datasets")
    made = combined_rows(layout, [found("mess-suim", 0.2), found("mess-suim", 0.1, corrupt="fog:3")])
    assert [row.detail for row in made.rows] == ["", "corrupt=fog:3"]
