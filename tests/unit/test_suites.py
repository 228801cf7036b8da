"""Suites: the shipped ones resolve, and mistakes in a file are named."""

from __future__ import annotations

import pytest

from ovbench.config.corruptions import CORRUPTIONS
from ovbench.config.load import resolve
from ovbench.config.suites import load_suite, suite_groups, suite_names
from ovbench.utils.errors import InputError, UsageError


@pytest.mark.quick(6)
@pytest.mark.parametrize("name", suite_names())
def test_every_row_of_every_shipped_suite_resolves(name):
    for dataset in ("mini", "mini-bg", "ade150"):
        lent = {"reference": "sets/coco"} if name.startswith("reme") and not dataset.startswith("mini") else {}
        try:
            rows = load_suite(name, [dataset], lent)
        except UsageError as error:  # for any method
            assert "names no method" in str(error)
            rows = load_suite(name, [dataset], lent, methods=["clip"])
        cells = [resolve(row.method, row.dataset, row.overrides, row.weights) for row in rows]
        assert len({cell.digest() for cell in cells}) == len(cells), dataset
        assert cells and all(cell.dataset == dataset for cell in cells)


def test_table_2_goes_from_clearclip_to_the_complete_method():
    rows = load_suite("corrclip-table2", ["mini"])
    cells = [resolve(row.method, row.dataset, row.overrides, row.weights) for row in rows]
    switches = ("scope", "value", "spatial_branch", "mask_class_tokens", "mask_merging", "map_correction")
    on = [sum(getattr(cell.params, name) for name in switches) for cell in cells]
    assert on == sorted(on) and on[0] == 0 and on[-1] == len(switches)
    assert cells[-1].digest() == resolve("corrclip", "mini").digest()
    assert {row.dataset for row in load_suite("corrclip-table2")} == {"voc21", "pc60", "coco-object"}


def test_rows_that_exchange_backbones_are_left_out_where_a_benchmark_brings_its_own():
    on_mini, on_voc = load_suite("corrclip-table5", ["mini"]), load_suite("corrclip-table5", ["voc21"])
    assert {row.label for row in on_voc} - {row.label for row in on_mini} == {"QK-QK of DINO-S"}
    assert next(row for row in on_voc if "DINO-S" in row.label).weights == {"dino": "dino-s8"}


def test_the_command_line_is_laid_over_every_row():
    settings = {"regions": "slic", "similarity": "q-q"}
    rows = load_suite("corrclip-table5", ["mini", "mini-bg"], settings, {"clip": "mini"})
    assert all(row.overrides["regions"] == "slic" and row.overrides["similarity"] == "q-q" for row in rows)
    assert all(row.weights == {"clip": "mini"} for row in rows)
    assert [row.dataset for row in rows[:2]] == ["mini", "mini-bg"] and rows[0].label == rows[1].label


def test_rows_are_variants_of_the_reference_set_that_is_given():
    def sets(dataset, overrides=None):
        rows = load_suite("reme-table2", [dataset], overrides)
        return [resolve(row.method, row.dataset, row.overrides).backbones["reference"] for row in rows]

    variants = ["?filter=none&synonyms=off", "?synonyms=off", "?filter=none", ""]
    assert sets("mini") == [f"mini{variant}" for variant in variants]
    assert sets("voc21", {"reference": "sets/coco"}) == [f"sets/coco{variant}" for variant in variants]
    assert sets("voc21", {"reference": "sets/coco?synonyms=off"})[2] == "sets/coco?synonyms=off&filter=none"
    with pytest.raises(UsageError, match="needs a reference set"):
        sets("voc21")


ROW = '[shared]\nmethod = "corrclip"\n[[row]]\nlabel = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW + "setings = {}", r'unknown key "row\[0\].setings" .*did you mean "settings"'),
        ("titel = 'x'\n" + ROW, r'unknown key "titel"'),
        ('datasets = ["mini"]', '"row" is missing'),
        ('datasets = ["mini"]\n[row]\nlabel = "a"', '"row" must be a list'),
        ('datasets = "mini"\n' + ROW, "\"datasets\" must be a list, got 'mini'"),
        ('datasets = ["mini"]\n[[row]]\nlabel = "a"\n[[row]]\nlabel = "b"\nmethod = "clip"', "a label and a method"),
        ('baseline = "b"\n' + ROW, '"baseline" is "b", which is the label of no row'),
        ('datasets = ["mini"]\n[[sweep]]\nlabel = "{}"\nsetting = "crop"\nvalues = []', "must be a list of 1 or more"),
        ('datasets = ["mini"]\n[[row]]\nlabel = 3', r'"row\[0\].label" must be a text, got 3'),
        ('datasets = ["mini"]\n' + ROW + '[[row]]\nlabel = "a"', "the same label"),
        (ROW, "no run is left"),
        ('datasets = ["mini"]\n' + ROW + "settings = { tau = { a = 1 } }", r'"row\[0\].settings.tau" must be a text'),
        ("[[row", "malformed TOML"),
    ],
)
def test_mistakes_in_a_file(text, message, tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_suite(str(path))


def test_values_stay_typed(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('datasets = ["mini"]\n' + ROW + "settings = { tau = 0.5, scope = false, mean = [1.0, 2, 3] }")
    (row,) = load_suite(str(path))
    assert row.overrides == {"tau": 0.5, "scope": False, "mean": (1.0, 2, 3)}
    cell = resolve(row.method, row.dataset, row.overrides)
    assert (cell.params.tau, cell.params.scope, cell.protocol.mean) == (0.5, False, (1.0, 2.0, 3.0))


def test_unknown_suite():
    with pytest.raises(UsageError, match='did you mean "corrclip-table2"'):
        load_suite("corclip-table2")
    with pytest.raises(InputError, match="no file"):
        load_suite("nowhere.toml")


SWEEP = """
title = "t"
datasets = ["mini"]
baseline = "clean"
[[row]]
label = "clean"
[[sweep]]
label = "{} seen"
group = "corrupted"
setting = "corrupt"
values = ["fog:3", "snow:1"]
settings = { crop = 112 }
"""


def test_a_sweep_has_a_row_per_value_and_any_method(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP)
    rows = load_suite(str(path), methods=["clip", "maskclip"])
    assert [(row.label, row.method) for row in rows][2:] == [
        ("fog:3 seen", "clip"), ("fog:3 seen", "maskclip"), ("snow:1 seen", "clip"), ("snow:1 seen", "maskclip"),
    ]  # fmt: skip
    assert rows[2].overrides == {"corrupt": "fog:3", "crop": 112} and rows[0].overrides == {}
    assert suite_groups(str(path)) == ("clean", {"clean": "", "fog:3 seen": "corrupted", "snow:1 seen": "corrupted"})
    with pytest.raises(UsageError, match="the suite names no method"):
        load_suite(str(path))
    with pytest.raises(UsageError, match="a suite names its own methods"):
        load_suite("corrclip-table2", methods=["clip"])


def test_the_corruption_suites_have_all_of_them():
    assert len(load_suite("corruptions", methods=["clip"])) == 16
    rows = load_suite("corruptions-all", methods=["clip"])
    cells = {resolve("clip", "voc20", row.overrides).protocol.corrupt for row in rows}
    assert cells == {""} | {f"{name}:{severity}" for name in CORRUPTIONS for severity in range(1, 6)}
