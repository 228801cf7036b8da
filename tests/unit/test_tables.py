"""Comparison tables from synthetic records: which record is shown, what is averaged, how it is marked and printed."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from ovbench.config.load import file_settings, resolve
from ovbench.config.published_runs import PublishedRun
from ovbench.config.published_weights import published
from ovbench.evaluation.record import SCHEMA, score_fields
from ovbench.metrics.confusion import ClassPixels
from ovbench.results.layouts import LayoutRow, TableLayout, load_layout
from ovbench.results.record_files import (
    deviation,
    deviations_of,
    find_records,
    official_cell,
    other_region_weights,
    unverified_weights,
)
from ovbench.results.report.runs import gather
from ovbench.results.suite_table import suite_page
from ovbench.results.tables import layout_table, record_table
from ovbench.results.writers import FORMATS
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import write_json

WEIGHTS = {"clip": {"name": "a", "sha256": "a"}}
DATASET = {
    "title": "drawn", "split": "val", "split_images": 100, "layout": "generated", "label_rule": "correct",
    "subset_sha256": None, "classes": ["sky"], "background": None, "images_asked_for": 100, "ids_sha256": "0",
}  # fmt: skip
COLUMNS = ("voc20", "pc59")
LAYOUT = TableLayout(
    "two methods", "nowhere", "", COLUMNS,
    (
        LayoutRow("block", "CLIP", "B", {"voc20": "40.0", "pc59": "10.5"}, "25.3", True, run=PublishedRun("clip")),
        LayoutRow("block", "Mask_CLIP", "B", {"voc20": "70.0", "pc59": "20.0"}, "46.0", run=PublishedRun("maskclip")),
        LayoutRow("block", "Other", "B", {"voc20": "60.0"}),
    ),
)  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Writes a record; keywords change the resolved cell and the rest of the record."""

    def make(
        method, benchmark, miou, *, images=100, started="2026-01-01", settings=None, protocol="paper",
        predicted=None, labelled=10_000, given=None, **changes,
    ):  # fmt: skip
        cell, hit = resolve(method, benchmark, settings, given, protocol), round(10_000 * miou)
        predicted = hit if predicted is None else predicted
        pixels = ClassPixels(*(np.array([n]) for n in (hit, predicted + labelled - hit, predicted, labelled)))
        scored = score_fields(pixels, ["sky"])
        scored["metrics"]["mIoU_interval"] = [miou - 0.01, miou + 0.01]
        record = {
            "schema": SCHEMA, "status": "complete", "cell": cell.as_dict(), "settings_sha256": cell.digest(),
            "dataset": DATASET | {"images": images}, "weights": WEIGHTS, "versions": {"ovbench": "0.1.0"},
            "device": {}, **scored, "failed": {}, "ledger": "none", "time": {"started": started}, **changes,
        }  # fmt: skip
        write_json(tmp_path / f"{len(list(tmp_path.iterdir()))}.json", record)

    return make


def table(tmp_path, **options):
    return layout_table(LAYOUT, find_records(tmp_path), **options)


def test_published_stands_beside_measured_with_difference_average_and_ranks(write, tmp_path):
    for method, values in {"clip": (0.41, 0.105), "maskclip": (0.68, 0.21)}.items():
        for dataset, miou in zip(COLUMNS, values, strict=True):
            write(method, dataset, miou)
    clip, maskclip, other = table(tmp_path).rows
    assert clip.cells[0].difference == pytest.approx(1.0) and clip.cells[0].interval == pytest.approx((40, 42))
    assert clip.average.published == "25.3" and clip.average.measured == pytest.approx(25.75)
    assert [cell.rank_measured for cell in maskclip.cells] == [1, 1] and clip.cells[0].rank_measured == 2
    assert [row.cells[0].rank_published for row in (clip, maskclip, other)] == [None, 1, 2]
    assert other.cells[1].published is None and other.average.published is None
    assert "Mask_CLIP (B): the average of the values is 45.0, but 46.0 is printed" in table(tmp_path).notes


def test_the_newest_complete_record_is_shown_and_a_part_is_marked(write, tmp_path):
    write("clip", "voc20", 0.30, started="2026-01-01")
    write("clip", "voc20", 0.40, started="2026-02-01")
    write("clip", "voc20", 0.99, started="2026-03-01", images=3)
    write("clip", "pc59", 0.10, images=3)
    clip = table(tmp_path).rows[0]
    assert clip.cells[0].measured == 40 and not clip.cells[0].partial
    assert clip.cells[1].partial and clip.cells[1].difference is None and clip.cells[1].rank_measured is None
    assert clip.average.partial
    assert "10.0*" in FORMATS["markdown"](table(tmp_path), False)


def test_other_settings_are_not_the_paper_s_row(write, tmp_path):
    write("clip", "voc20", 0.4, settings={"crop": "336"})
    made = table(tmp_path)
    assert made.rows[0].cells[0].measured is None
    assert any("1 record(s)" in note for note in made.notes)
    assert table(tmp_path, settings={"crop": "336"}).rows[0].cells[0].measured == 40
    write("clip", "pc59", 0.1, protocol="common")
    assert table(tmp_path, protocol="common").rows[0].cells[1].measured == 10


def test_a_file_with_the_hash_of_the_published_one_fills_its_row(write, tmp_path):
    spec = "ViT-B-16-quickgelu@any.pt"
    own = {"given": {"clip": spec}, "started": "2026-02-01"}
    write("clip", "voc20", 0.4, weights={"clip": {"name": spec, "sha256": "a"}}, **own)
    assert table(tmp_path).rows[0].cells[0].measured is None  # its name proves nothing
    assert "clip=ViT-B-16-quickgelu@any.pt" in deviations_of(find_records(tmp_path)[0].record)
    known = {"name": spec, "sha256": "a", "official": "ViT-B-16-quickgelu/openai"}
    write("clip", "voc20", 0.5, weights={"clip": known}, **own)
    write("clip", "pc59", 0.1)
    clip = table(tmp_path).rows[0]
    assert clip.cells[0].measured == 50 and clip.cells[0].difference == pytest.approx(10)
    assert clip.average.measured == pytest.approx(30)  # the same tensors by a file and by a name
    assert [deviations_of(found.record) for found in find_records(tmp_path)][1:] == ["", ""]


def test_weights_under_a_published_name_are_known_by_their_hash(write, tmp_path):
    psi = {"name": "talk2dino-b", "sha256": "c" * 64}
    told = {"clip": {"name": "openai-b", "sha256": "a"}, "psi": psi}
    assert unverified_weights({"weights": told}) == [f"psi talk2dino-b ({'c' * 12})"]
    for name, count in (("/banks/coco", 1), ("none", 0), ("mini", 0)):
        assert len(unverified_weights({"weights": {"support": {"name": name, "sha256": "d" * 64}}})) == count
    row = LayoutRow("block", "T", "B", {"voc20": "80.0"}, run=PublishedRun("talk2dino"))
    write("talk2dino", "voc20", 0.8, weights=told)
    made = layout_table(replace(LAYOUT, rows=(row,)), find_records(tmp_path))
    assert made.rows[0].cells[0].measured == 80 and any("unverified" in note for note in made.notes)
    sam = {"regions": {"source": "sam", "model": "vit_h", "weights": ""}}
    right = "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    for digest, other in ((right, ""), ("b" * 64, "b" * 64)):
        assert other_region_weights({"cell": sam, "files": {"regions.weights_sha256": digest}}) == other
    assert not other_region_weights({"cell": {"regions": {"source": "slic"}}, "files": {}})
    sam2 = {"source": "sam2-32", "weights": "x/sam2_hiera_large.pt"}
    (known,) = published("hashes")["sam2"]
    own = {**sam["regions"], "weights": "own.pth"}
    for regions, digest, weights in (
        (own, right, ""), (own, known, "own.pth"),
        (sam2, known, "facebook/sam2-hiera-large"), (sam2, right, "x/sam2_hiera_large.pt"),
    ):  # fmt: skip
        record = {"cell": {"regions": regions, "backbones": {}}, "weights": {}}
        assert official_cell(record | {"files": {"regions.weights_sha256": digest}})["regions"]["weights"] == weights
        assert official_cell(record)["regions"] == regions


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": {"clip": {"name": "a", "sha256": "b"}}}, "different weights"),
        ({"versions": {"ovbench": "0.0.9"}}, "different code of ovbench (0.1.0, 0.0.9)"),
        ({"code": {"ovbench": "b" * 64}}, "different code of ovbench (0.1.0, bbbbbbbb)"),
    ],
)
def test_unlike_protocols_are_not_averaged(write, tmp_path, changes, reason):
    write("clip", "voc20", 0.4)
    write("clip", "pc59", 0.1, **changes)
    made = table(tmp_path)
    assert made.rows[0].average.measured is None
    assert any("no measured average" in note and reason in note for note in made.notes)


def test_the_code_decides_what_is_averaged_not_the_version(write, tmp_path):
    """A commit that touches a page only gives another version, and the same code."""
    write("clip", "voc20", 0.4, code={"ovbench": "a" * 64}, versions={"ovbench": "0.1.0+1"})
    write("clip", "pc59", 0.1, code={"ovbench": "a" * 64}, versions={"ovbench": "0.1.0+2"})
    assert table(tmp_path).rows[0].average.measured == pytest.approx(25)
    write("clip", "pc59", 0.2, code={"ovbench": "b" * 64}, versions={"ovbench": "0.1.0+2"}, started="2026-02-02")
    made = table(tmp_path)
    assert made.rows[0].average.measured is None
    assert any("different code of ovbench (0.1.0+1, 0.1.0+2) on voc20 and pc59" in note for note in made.notes)


def test_a_score_that_is_not_of_its_counts_is_named_and_skipped(write, tmp_path, caplog):
    write("clip", "voc20", 0.4)
    whole = json.loads((tmp_path / "0.json").read_text())
    for name, key, value in (("mean", "metrics", "mIoU"), ("class", "per_class", "acc"), ("none", "metrics", "aAcc")):
        found = json.loads(json.dumps(whole))
        (found[key] if key == "metrics" else found[key][0])[value] = None if name == "none" else 0.99
        write_json(tmp_path / f"{name}.json", found)
    write_json(tmp_path / "union.json", {**whole, "counts": {**whole["counts"], "union": [999]}})
    assert [found.path.name for found in find_records(tmp_path)] == ["0.json"]
    said = "\n".join(record.getMessage() for record in caplog.records)
    for text in (
        '"metrics.mIoU" is 0.99, but the counts give 0.4 (', '"per_class[0].acc" is 0.99', '"metrics.aAcc" is None',
        '"counts.union" is not predicted + labelled - intersection',
    ):  # fmt: skip
        assert text in said, said


def test_without_a_layout_every_deviation_is_a_row(write, tmp_path):
    write("clip", "voc20", 0.4)
    write("clip", "pc59", 0.1, protocol="common")
    write("clip", "pc59", 0.2, settings={"crop": "336"})
    rows = record_table(find_records(tmp_path)).rows
    assert [row.detail.split(",")[0] for row in rows] == ["", "crop=336", "protocol common"]
    assert all(row.average.measured is None for row in rows)


def test_without_a_layout_every_reference_set_is_a_row(write, tmp_path):
    for reference in ("sets/coco", "sets/coco?filter=none", "sets/voc"):
        write("reme", "voc20", 0.2, settings={"reference": reference})
    write("reme", "mini", 0.3)
    details = [row.detail for row in record_table(find_records(tmp_path)).rows]
    assert details == ["", "reference=sets/coco", "reference=sets/coco?filter=none", "reference=sets/voc"]


def test_every_format_holds_every_number(write, tmp_path):
    write("maskclip", "voc20", 0.68)
    made = table(tmp_path)
    texts = {name: form(made, True) for name, form in FORMATS.items()}
    for name, text in texts.items():
        assert ("Mask\\_CLIP" if name == "latex" else "Mask_CLIP") in text and "70.0" in text, name
    assert "\\textbf{70.0} / 68.0 (-2.0) [67.0, 69.0]" in texts["latex"]
    assert "<strong>70.0</strong><br>68.0 (-2.0)" in texts["html"]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert len(rows) == 9 and rows[3]["published"] == "70.0" and float(rows[3]["difference"]) == pytest.approx(-2)
    assert json.loads(texts["json"])["rows"][1]["cells"]["voc20"]["rank_published"] == 1


def test_the_warnings_of_records_stand_below_every_table(write, tmp_path):
    write("maskclip", "voc20", 0.68, notes=["clip is a <toy> network"])
    said = "on voc20: clip is a <toy> network"
    for made in (table(tmp_path), record_table(find_records(tmp_path))):
        assert any(note.endswith(said) for note in made.notes)
        for name, form in FORMATS.items():
            text = form(made, False).replace("\\", "")
            assert re.search(r"clip is a\s+(<toy>|&lt;toy&gt;|\{?textless\{?\}?toy\S*)\s+network", text), name
    (run,) = gather([tmp_path])
    assert "clip is a <toy> network" in run.notes
    page = suite_page("s", "t", "", [found.record for found in find_records(tmp_path)], {})
    assert "clip is a &lt;toy&gt; network" in page


def test_another_metric_of_the_records_is_shown_without_an_interval(write, tmp_path):
    write("clip", "voc20", 0.36, labelled=5000, predicted=7600)  # mIoU 0.4
    layout = replace(LAYOUT, metric="aAcc")
    made = layout_table(layout, find_records(tmp_path))
    assert json.loads(FORMATS["json"](made, True))["metric"] == "aAcc"
    cell = made.rows[0].cells[0]
    assert cell.measured == pytest.approx(72) and cell.interval is None


@pytest.mark.slow
def test_a_printed_average_may_stand_alone_or_not_at_all():
    rows = (LayoutRow("g", "a", "", {}, "51.6"), LayoutRow("g", "b", "", {}, "50.0"))
    alone = TableLayout("t", "", "", COLUMNS, rows)
    assert [row.average.published for row in layout_table(alone, []).rows] == ["51.6", "50.0"]
    assert layout_table(alone, []).rows[0].average.rank_published == 1
    without = layout_table(replace(alone, average=False), [])
    assert without.rows[0].average.published is None
    assert all("51.6" not in form(without, False) for form in FORMATS.values())
    assert r"Method & voc20 & pc59 \\" in FORMATS["latex"](without, False)


def test_rows_of_reme_are_matched_by_the_variant_of_whatever_reference_set(write, tmp_path):
    write("reme", "voc20", 0.2, settings={"reference": "sets/coco?filter=none"}, started="2026-01-01")
    write("reme", "voc20", 0.3, settings={"reference": "sets/coco"}, started="2026-01-02")
    write("reme", "voc20", 0.4, settings={"reference": "sets/voc"}, started="2026-01-03")
    sets = ({"reference": "?filter=none"}, {}, {"reference": "?synonyms=off"})
    runs = tuple(PublishedRun("reme", settings) for settings in sets)
    layout = TableLayout("t", "", "", COLUMNS, tuple(LayoutRow("g", str(n), "", {}, run=r) for n, r in enumerate(runs)))

    def measured(**settings):
        rows = layout_table(layout, find_records(tmp_path), settings=settings).rows
        return [cell.measured and round(cell.measured) for cell in (row.cells[0] for row in rows)]

    assert measured() == [20, 40, None]
    assert measured(reference="sets/coco") == [20, 30, None]
    assert measured(reference="sets/voc") == [None, 40, None]


def test_wrong_requests(tmp_path):
    with pytest.raises(UsageError, match='did you mean "corrclip-table1"'):
        load_layout("corrclip-tabel1")
    with pytest.raises(InputError, match="no such folder"):
        find_records(tmp_path / "none")


@pytest.mark.slow
def test_the_command(write, tmp_path, capsys):
    from click.testing import CliRunner

    from ovbench.cli.table import table as command

    write("clip", "voc20", 0.4123)
    done = CliRunner().invoke(command, ["--runs", str(tmp_path), "--format", "csv", "-l", "cass-table1"])
    assert done.exit_code == 0, done.output
    found = [r for r in csv.DictReader(io.StringIO(done.output)) if r["measured"]]
    # CASS's table has CLIP in another protocol
    assert [(r["row"], r["benchmark"], r["published"], r["difference"]) for r in found] == [("CLIP", "voc20", "", "")]
    assert "measured with the protocol of" in found[0]["detail"]
    done = CliRunner().invoke(command, ["--runs", str(tmp_path), "--format", "csv", "-l", "clearclip-table2"])
    found = [r for r in csv.DictReader(io.StringIO(done.output)) if r["measured"]]
    assert [(r["row"], r["published"], r["difference"][:4]) for r in found] == [("CLIP", "41.8", "-0.5")]
    done = CliRunner().invoke(command, ["--runs", str(tmp_path), "-l", "cass-table1", "-d", "voc20", "--format", "csv"])
    assert {r["benchmark"] for r in csv.DictReader(io.StringIO(done.output))} == {"voc20", "average"}
    wrong = CliRunner().invoke(command, ["--runs", str(tmp_path), "-d", "voc02"])
    assert isinstance(wrong.exception, UsageError) and 'unknown dataset "voc02"' in str(wrong.exception)
    assert "corrclip-table1" in CliRunner().invoke(command, ["--list"]).output


def test_code_that_a_record_names_is_not_run(tmp_path):
    """Its settings are compared with those of the files; its parameters, whose defaults only it knows, are all told."""
    marker = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    (tmp_path / "mine.toml").write_text("[params]\nweight = 2\n[protocol]\ncrop = 96\n")
    plain = {"method": f"{tmp_path}/mine.py:Mine", "dataset": "mini", "backbones": {}, "regions": {}}
    cell = file_settings(plain)
    assert cell["params"] == {"weight": 2}
    assert deviation(cell) == ""
    cell["params"]["power"], cell["protocol"]["stride"] = 3.0, 16
    assert deviation(cell) == "power=3.0, stride=16"
    assert not marker.exists()


def test_a_value_of_other_settings_stands_there_without_a_difference(write, tmp_path):
    write("clip", "voc20", 0.4, settings={"crop": "336"})
    row = table(tmp_path, settings={"crop": "336"}).rows[0]
    assert row.cells[0].measured == 40 and row.cells[0].difference is None
    assert row.detail == "B; measured with crop=336"
    assert table(tmp_path, settings={"crop": "448"}).rows[0].detail == "B"


def test_a_table_that_measured_a_method_otherwise_gets_a_row_for_ours(write, tmp_path):
    write("clip", "voc20", 0.4)
    layout = load_layout("cass-table1", ["voc20"])
    made = layout_table(layout, find_records(tmp_path))
    published, ours = (row for row in made.rows if row.label == "CLIP")
    assert published.cells[0].published == "49.1" and published.cells[0].measured is None
    assert ours.cells[0].measured == 40 and ours.cells[0].published is None
    assert any("another protocol" in note and "CLIP" in note for note in made.notes)


PROXYCLIP = LayoutRow("g", "ProxyCLIP", "", {"pc459": "8.4"}, run=PublishedRun("proxyclip"))
RULES = TableLayout("t", "", "", ("pc459",), (PROXYCLIP,))


@pytest.mark.parametrize(("rule", "mark", "difference"), [("official", "[o]", -0.4), ("correct", "[c]", None)])
def test_a_cell_says_which_label_rule_its_value_follows(write, tmp_path, rule, mark, difference):
    write("proxyclip", "pc459", 0.08, dataset=DATASET | {"images": 100, "label_rule": rule})
    made = layout_table(RULES, find_records(tmp_path))
    cell = made.rows[0].cells[0]
    assert cell.rule == rule and cell.difference == (None if difference is None else pytest.approx(difference))
    for name in ("rich", "latex", "html"):
        assert f"8.0 {mark}" in FORMATS[name](made, False), name
    assert next(csv.DictReader(io.StringIO(FORMATS["csv"](made, False))))["label_rule"] == rule


def test_of_two_rules_the_published_one_is_shown_and_a_table_of_records_has_both(write, tmp_path):
    for rule, miou in (("official", 0.08), ("correct", 0.09)):
        data = DATASET | {"images": 100, "label_rule": rule}
        write("proxyclip", "pc459", miou, dataset=data, started=f"2026-01-0{1 + (rule == 'correct')}")
    write("proxyclip", "voc20", 0.8)
    assert layout_table(RULES, find_records(tmp_path)).rows[0].cells[0].measured == 8
    rows = record_table(find_records(tmp_path)).rows
    assert [row.detail for row in rows] == ["", "label rule correct"]
    assert rows[0].average.measured == 44  # voc20 has only one rule


def test_freecp_counts_as_published_only_with_the_paper_s_descriptions(write, tmp_path):
    row = LayoutRow("g", "GEM+FreeCP", "", {"voc20": "80.6"}, run=PublishedRun("freecp"))
    layout = TableLayout("t", "", "", ("voc20",), (row,))
    write("freecp", "voc20", 0.7)  # of a version that did not note them
    told = [{"setting": "descriptions", "published": "those of the paper", "value": "none"}]
    write("freecp", "voc20", 0.75, published={"official": True, "deviations": told, "sources": []})
    assert layout_table(layout, find_records(tmp_path)).rows[0].cells[0].measured is None
    details = [row.detail for row in record_table(find_records(tmp_path)).rows]
    assert details == ["descriptions: none", "descriptions: not recorded"]
    write("freecp", "voc20", 0.8, published={"official": True, "deviations": [], "sources": []})
    assert layout_table(layout, find_records(tmp_path)).rows[0].cells[0].measured == 80


def test_the_authors_maps_fill_the_published_row_and_a_note_says_so(write, tmp_path):
    run = PublishedRun("corrclip", {"regions": "sam2-32"})
    layout = TableLayout("t", "", "", ("voc20",), (LayoutRow("g", "CorrCLIP", "", {"voc20": "88.8"}, run=run),))
    write("corrclip", "voc20", 0.88, settings={"regions": "precomputed", "regions.folder": "/data/maps"})
    made = layout_table(layout, find_records(tmp_path))
    assert made.rows[0].cells[0].difference == pytest.approx(-0.8)
    assert any("precomputed region maps on voc20" in note for note in made.notes)
    write("corrclip", "voc20", 0.5, settings={"regions": "felzenszwalb"}, started="2026-05-05")
    assert layout_table(layout, find_records(tmp_path)).rows[0].cells[0].measured == 88


SIX = [
    {}, {"refine": "pamr"}, {"crop": "336"}, {"pamr_dilations": "4,8"}, {"vocabulary": "naclip"}, {"prob_thd": "0.5"}
]  # fmt: skip


@pytest.mark.quick(2)
@pytest.mark.parametrize("form", FORMATS)
def test_six_runs_have_six_names_in_every_format_and_none_is_python(write, tmp_path, form):
    for number, settings in enumerate(SIX):
        write("clearclip", "voc20", 0.4 + number / 100, settings=settings)
    made = record_table(find_records(tmp_path))
    text = FORMATS[form](made, False)
    assert len({row.name for row in made.rows}) == 6
    plain = text.replace("\\_", "_")
    for row in made.rows:
        assert row.detail in plain, row.detail
    assert "pamr_dilations=4,8" in plain and not any(python in text for python in ("None", "['", "True", "(4,"))


def test_backbones_are_named_as_they_were_given(tmp_path):
    cell = resolve("clip", "mini", {}, {"clip": "ViT-B-16-quickgelu/openai"}).as_dict()
    assert deviation(cell) == "clip=ViT-B-16-quickgelu/openai"
    assert deviation(resolve("corrclip", "mini", {"regions": "slic"}).as_dict()) == "regions=slic"


def test_hostile_names_are_text_in_every_format():
    name = "=A&B_c|<b>$x^2$\n{y}~"
    layout = TableLayout(name, name, name, ("voc20",), (LayoutRow(name, name, name, {"voc20": "1.0"}),))
    made = layout_table(layout, [])
    html, markdown, latex = (FORMATS[form](made, False) for form in ("html", "markdown", "latex"))
    assert "<b>" not in html and "<b>" not in markdown
    assert r"B_c\|&lt;b&gt;\$" in markdown
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in markdown.splitlines()[2:6])
    body = latex[latex.index(r"\begin") :]
    assert r"=A\&B\_c\textbar{}\textless{}b\textgreater{}\$x\textasciicircum{}2\$ \{y\}\textasciitilde{}" in body
    assert all(line.startswith("%") for line in latex.splitlines()[:4])
    row = next(csv.DictReader(io.StringIO(FORMATS["csv"](made, False))))
    assert {row[key][:2] for key in ("group", "row", "detail")} == {"'="}


def test_a_record_that_cannot_be_read_is_named_and_skipped(write, tmp_path, caplog):
    write("clip", "voc20", 0.4)
    whole = json.loads((tmp_path / "0.json").read_text())
    for name, found in {
        "torn": '{"schema": 1, "cell"', "newer": json.dumps({**whole, "schema": 99}),
        "other": json.dumps({**whole, "metrics": {}}),
        "shard-1of2": '{"images": []}', "baseline": '{"schema": 1, "cells": []}',
    }.items():  # fmt: skip
        (tmp_path / f"{name}.json").write_text(found)
    assert [found.path.name for found in find_records(tmp_path)] == ["0.json"]
    said = {record.getMessage() for record in caplog.records}
    assert len(said) == 3 and all(line.startswith("skipped: ") for line in said)
    reasons = {"torn": "malformed JSON", "newer": "its schema is 99", "other": '"metrics.mIoU" is missing'}
    for name, why in reasons.items():
        assert any(f"{name}.json" in line and why in line for line in said), (name, said)


def test_the_protocol_that_was_asked_for_decides_what_deviates(write, tmp_path):
    asked = {"method": "corrclip", "dataset": "voc20", "protocol": "common"}
    write("corrclip", "voc20", 0.4, settings={"tau": 0.3}, protocol="common", arguments=asked)
    (found,) = find_records(tmp_path)
    assert deviations_of(found.record) == "protocol common, tau=0.3"
    assert "short_side=448" in deviations_of({**found.record, "arguments": {**asked, "protocol": "paper"}})
