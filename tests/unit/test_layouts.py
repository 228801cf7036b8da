"""The shipped layouts: every figure that they print is that of its CSV, in every format; mistakes are named."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter

import pytest

from ovbench.config.load import resolve
from ovbench.data.card import list_cards
from ovbench.metrics.named import parse_metric
from ovbench.results.layouts import layout_names, load_layout, published_runs
from ovbench.results.tables import layout_table
from ovbench.results.writers import FORMATS
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.paths import shipped
from ovbench.utils.registry import METHODS
from ovbench.utils.toml import read_toml

FIELDS = {"methods": "method", "variants": "variant", "postprocess": "postprocess", "groups": "group"}


def rows(name):
    with shipped("results", "published", f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figures_of(group):
    """(column, value) of what the CSV has for a block, read here without the layouts' own code."""
    if "figures" in group:
        where = {field: wanted if isinstance(wanted, list) else [wanted] for field, wanted in group["where"].items()}
        found = [r for r in rows(group["figures"]) if all(r[field] in wanted for field, wanted in where.items())]
    else:
        found = [
            r for r in rows("results")
            if r["reported_by"] == group.get("reported_by", r["reported_by"])
            and all(r[field] in group[key] for key, field in FIELDS.items() if key in group)
        ]  # fmt: skip
    for r in found:
        column = r.get("benchmark") or r.get("name") or f"{r['quantity']} ({r['unit']})"
        column = "PAS-20b" if "[PAS-20b" in r.get("note", "") else column.removesuffix(" (assumed)")
        yield column, r["value"]


@pytest.mark.slow
@pytest.mark.parametrize("name", layout_names())
def test_the_published_side_is_that_of_the_files_in_every_format(name):
    file = read_toml(shipped("configs", "tables", f"{name}.toml"))
    made = layout_table(load_layout(name), [])
    texts = {form: render(made, False) for form, render in FORMATS.items()}
    printed = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert file["group"]
    for group in file["group"]:
        shown = Counter(
            (r["benchmark"], r["published"])
            for r in printed
            if r["group"] == group["title"] and r["published"] and r["benchmark"] != "average"
        )
        if "figures" not in group and "suite" in group:
            assert not shown
            continue
        known = Counter(pair for pair in figures_of(group) if pair[0] in file["columns"])
        assert shown <= known and ("row" in group or shown == known), group["title"]
    values = {r["published"] for r in printed if r["published"]}
    for form in ("markdown", "latex", "html", "json"):
        assert all(value in texts[form] for value in values), form
    assert texts["markdown"].splitlines()[2].endswith("| average |") == file.get("average", True)
    assert len(json.loads(texts["json"])["rows"]) == len(made.rows) and texts["rich"].startswith(file["title"][:20])


@pytest.mark.quick(6)
@pytest.mark.parametrize("name", layout_names())
def test_every_row_is_published_or_can_be_measured_and_has_a_name_of_its_own(name):
    layout = load_layout(name)
    assert layout.rows and all(row.published or row.run for row in layout.rows)
    assert len({(row.group, row.label, row.detail) for row in layout.rows}) == len(layout.rows)
    foreign = [column for column in layout.columns if column not in list_cards()]
    notes = layout_table(layout, []).notes
    said = ("cannot measure these columns" in note or all(column in note for column in foreign) for note in notes)
    assert any(said) or not foreign
    assert set(layout.lower_is_better) <= set(layout.columns)


# read in the sources and in notes about them, not in the CSV
@pytest.mark.quick(5)
@pytest.mark.parametrize(
    ("name", "row", "detail", "values"),
    [
        ("corrclip-table9", "CAT-Seg-L", "", {"FoodSeg103": "30.47", "CUB-200": "9.24", "SUIM": "53.94"}),
        ("corrclip-table9", "CorrCLIP-L", "", {"ATLANTIS": "40.1", "CUB-200": "31.3"}),
        ("corrclip-table11", "fast CorrCLIP, EoMT", "", {"average": "51.6"}),
        ("corrclip-table11-cost", "ProxyCLIP", "CLIP ViT-B/16 + DINO", {"time per image (ms)": "69"}),
        ("corrclip-weights", "OpenAI", "OpenAI CLIP ViT-B/16", {"average": "48.7"}),
        ("corrclip-weights", "OpenAI", "OpenAI CLIP ViT-L/14", {"average": "50.6"}),
        ("corrclip-weights", "MetaCLIP", "MetaCLIP ViT-L/14", {"average": "53.6"}),
        ("corrclip-table2", "+ map correction", "", {"voc21": "74.8", "pc60": "44.2", "coco-object": "43.7"}),
        ("cass-table2", "CLIPtrase", "", {"average": "58.8"}),
        ("cass-table2", "CASS", "", {"voc21": "90.1", "cityscapes": "78.2"}),
        ("cass-backbones", "DINOv2 ViT-B/14 with registers", "", {"average": "40.1"}),
        ("cass-backbones", "DINOv3 ViT-B/16", "", {"average": "42.2"}),
        ("talk2dino-ablations", "Base, with refinement", "", {"average": "46.3", "voc21": "65.8"}),
        ("freecp-ablation", "+ refine, no purification", "", {"voc21": "27.5", "ade150": "9.1"}),
        ("reme-table1", "ReME", "CLIP + DINOv2", {"voc21": "82.2", "cityscapes": "59.0", "ade150": "28.2"}),
        ("resclip-with-background", "NACLIP+ResCLIP", "CLIP ViT-B/16", {"voc21": "61.1", "average": "43.2"}),
        ("resclip-without-background", "SCLIP+ResCLIP", "CLIP ViT-L/14", {"voc20": "83.9", "ade150": "15.8"}),
        ("floss", "NACLIP+FLOSS", "", {"cityscapes": "37.0", "coco-stuff": "23.6"}),
        ("catseg-table1", "CAT-Seg", "OpenCLIP ViT-G/14", {"ade847": "13.3", "pc459": "21.4"}),
        ("catseg-family", "CAT-Seg", "OpenCLIP ViT-G/14", {"ade847": "14.1"}),
        ("catseg-family", "SAN", "CLIP ViT-B/16", {"pc459": "16.71"}),
        ("catseg-family", "CAT-Seg", "CLIP ViT-L/14", {"PAS-20b": "82.5", "voc20": "97.0"}),
        ("mess-domains", "Best supervised", "", {"Mean": "71.13"}),
        ("mess-datasets", "Best supervised", "", {"average": "70.99"}),
        ("mess-datasets", "CAT-Seg-L", "", {"average": "38.14", "SUIM": "53.94"}),
        ("radseg-figure", "Talk2DINO", "B", {"latency (plot) (s)": "0.16"}),
        ("efficiency", "CASS", "CLIP ViT-B/16 + DINO ViT-B/8; NVIDIA RTX A6000", {"throughput (FPS)": "5.6"}),
    ],
)  # fmt: skip
def test_figures_that_are_known_elsewhere(name, row, detail, values):
    made = layout_table(load_layout(name), [])
    found = next(r for r in made.rows if r.label == row and r.detail.startswith(detail))
    cells = {**dict(zip(made.columns, found.cells, strict=True)), "average": found.average}
    assert {column: cells[column].published for column in values} == values


def test_the_least_is_best_where_the_layout_says_so():
    rows = layout_table(load_layout("corrclip-table11-cost"), []).rows
    assert [row.cells[0].rank_published for row in rows] == [None, 1, 2]
    speed = layout_table(load_layout("efficiency"), []).rows
    assert next(r for r in speed if r.label == "TCL").cells[0].rank_published == 1


@pytest.mark.quick(1)
@pytest.mark.parametrize(("width", "parts"), [(60, 8), (80, 5), (400, 1)])
def test_a_narrow_terminal_breaks_no_number(monkeypatch, width, parts):
    monkeypatch.setenv("COLUMNS", str(width))
    made = layout_table(load_layout("mess-datasets"), [])
    printed = FORMATS["rich"](made, False).splitlines()
    table = [line for line in printed if line[:1] in "│┃┏┡└├"]
    assert max(map(len, table)) <= width and sum(line.startswith("┏") for line in table) == parts
    words = [word for line in table for word in line.split()]
    assert made.rows
    for row in made.rows:
        for cell in (*row.cells, row.average):
            assert cell.published is None or cell.published in words


def test_pas_20b_is_not_voc21():
    layout = load_layout("catseg-family", ["voc21", "PAS-20b"])
    assert all("voc21" not in row.published for row in layout.rows) and layout.rows[0].published == {"PAS-20b": "77.3"}


def test_other_benchmarks_than_the_paper_s_can_be_shown():
    layout = load_layout("cass-backbones", ["voc21", "mini"])
    assert layout.columns == ("voc21", "mini") and layout.rows[0].published == {"voc21": "65.8"}
    assert layout_table(layout, []).rows[0].average.published is None
    assert layout_table(load_layout("talk2dino-ablations", ["voc21"]), []).rows[0].average.published == "61.5"


def test_runs_are_of_published_rows_and_can_be_resolved():
    keys = {(r["method"], r["variant"], r["postprocess"]) for r in rows("results")}
    keys |= {(r["method"], r["variant"], "none") for r in rows("other_metrics")}
    assert published_runs()
    for row, run in published_runs().items():
        assert row in keys and run.method in METHODS.names(), row
        lent = {"reference": "sets/coco"} if run.method == "reme" else {}
        resolve(run.method, "voc21", {**run.settings, **lent}, run.weights)


HEAD = 'columns = ["voc21"]\n[[group]]\ntitle = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('metric = "mIuO"\n' + HEAD, 'unknown metric "mIuO"'),
        (HEAD + 'figures = "ablation"', 'did you mean "ablations"'),
        (HEAD + 'figures = "mess"\nwhere = { modell = "SAN-B" }', 'unknown field of mess.csv "modell"'),
        (HEAD + 'figures = "mess"\n[[group.row]]\nlabel = "x"\nsetting = "SAN-X"', 'unknown published figure "SAN-X"'),
        (HEAD + 'suite = "corrclip-table2"\n[[group.row]]\nlabel = "x"', 'unknown row of the suite "x"'),
        (HEAD + 'reported_by = "nobody"', 'no published row for the group "a"'),
        (HEAD + '[[group.row]]\nmethod = "CASS"', 'no published row "None, CASS, None, None"'),
        ("colums = 3\n" + HEAD, 'unknown key "colums" .*did you mean "columns"'),
        (HEAD + 'reported = "x"', r'unknown key "group\[0\].reported" .*did you mean "reported_by"'),
        (HEAD + '[[group.row]]\nsuite_rows = "x"', r'unknown key "group\[0\].row\[0\].suite_rows"'),
        (HEAD + 'postprocess = "none"', r'"group\[0\].postprocess" must be a list'),
        (HEAD + 'figures = "mess"\nwhere = { model = 3 }', r'"group\[0\].where.model" must be a text or a list'),
        (HEAD + 'suite = "corrclip-table2"\n[[group.row]]\nsetting = "x"', 'needs a "label" in every row'),
        ('columns = []\n[[group]]\ntitle = "a"', '"columns" must be a list of 1 or more'),
        ('columns = ["voc21"]\ngroup = []', '"group" must be a list of 1 or more'),
        ('columns = ["voc21"]\n[[group]]\nfigures = "mess"', r'"group\[0\].title" is missing'),
        ('average = "no"\n' + HEAD, '"average" must be true or false'),
        ('lower_is_better = ["voc20"]\n' + HEAD, 'names "voc20", which is no column'),
    ],
)
def test_mistakes_in_a_layout_are_named(tmp_path, text, message):
    (tmp_path / "l.toml").write_text(text)
    with pytest.raises((InputError, UsageError), match=message):
        load_layout(str(tmp_path / "l.toml"))


def test_published_figures_of_another_rule_are_marked_and_not_compared(tmp_path):
    file = tmp_path / "san.toml"
    file.write_text('columns = ["pc459", "ade847"]\n[[group]]\ntitle = "g"\nreported_by = "SAN training log"\n')
    layout = load_layout(str(file))
    assert [row.rules for row in layout.rows] == [{"pc459": "mIoU_present"}] * 2
    table = layout_table(layout, [])
    assert sum("pc459: published as mIoU_present" in note for note in table.notes) == 2
    present = load_layout(str(file), metric=parse_metric("mIoU_present"))
    assert [dict(row.published) for row in present.rows] == [{"pc459": "16.71"}, {"pc459": "20.83"}]
    assert not any("published as" in note for note in layout_table(present, []).notes)


def test_another_metric_has_the_published_figures_of_that_metric():
    rows = {row.label: row for row in load_layout("cass-table1", metric=parse_metric("pAcc")).rows}
    assert rows["CLIPtrase"].published["voc21"] == "78.6" and rows["CLIPtrase"].printed_average is None
    assert rows["TCL"].published == {}
    assert load_layout("cass-table1", metric=parse_metric("mIoU")) == load_layout("cass-table1")
    with pytest.raises(UsageError, match='unknown metric "iou"'):
        parse_metric("iou")
