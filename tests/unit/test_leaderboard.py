"""The leaderboard: published beside measured, links, no request to another host, names of others as text."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_runs import random_counts, write_run

from ovbench.config.load import resolve
from ovbench.results.leaderboard.board_rows import benchmarks, board_rows, page_names
from ovbench.results.leaderboard.resources import resources_of_cell, resources_of_figure
from ovbench.results.leaderboard.scatter import Point, scatter
from ovbench.results.leaderboard.site import write_site
from ovbench.results.published import PublishedFigure, published_results
from ovbench.results.record_files import find_records
from ovbench.utils.errors import UsageError
from ovbench.utils.files import read_json, write_json
from ovbench.utils.registry import METHODS

ROOT = Path(__file__).parents[2]
HOSTILE = "<img src=x onerror=alert(1)>"
VOID = {"meta", "link", "img", "input", "br", "line", "circle"}


class Page(HTMLParser):
    """Links, tags and texts of a page; unclosed tags are an error."""

    def __init__(self, path):
        super().__init__()
        self.links, self.open, self.tags = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, (path, self.open)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            while self.open and self.open[-1] in ("option", "li") and tag != self.open[-1]:
                self.open.pop()
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """CLIP on voc20 as published, and with another setting; a method and a benchmark of a user with hostile names."""
    folder = tmp_path_factory.mktemp("runs")
    counts = random_counts(np.random.default_rng(0), 20, 3, outside=False)
    own = resolve("clip", "mini").as_dict()
    cells = {
        "published": resolve("clip", "voc20").as_dict(),
        "crop": resolve("clip", "voc20", {"crop": "336"}).as_dict(),
        "own": {**own, "method": f"a/b.py:{HOSTILE}", "dataset": f"photos {HOSTILE}"},
    }
    for name, cell in cells.items():
        write_run(folder, counts, ["sky", "grass", HOSTILE], name=name, cell=cell)
    (folder / "published" / "a.png").write_bytes(b"png")
    write_json(folder / "own.json", {**read_json(folder / "own.json"), "notes": ["clip is a <toy>"]})
    cost = {
        "images": 8, "parameters": 86_000_000, "flops": 35.2e9, "latency_s": 0.05, "regions_s": None,
        "images_per_s": 40.0, "peak_device_bytes": None, "peak_host_bytes": 1, "joules": None, "device": {},
    }  # fmt: skip
    write_json(folder / "published.json", {**read_json(folder / "published.json"), "cost": cost})
    return [*find_records(folder), *find_records(ROOT / "results" / "mini")]


@pytest.fixture(scope="module")
def site(records, tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "new"
    write_site(records, out)
    return out


@pytest.mark.slow
def test_measured_values_stand_beside_the_published_row_with_their_gap(records):
    rows = board_rows(records)
    key = ("CLIP", "ClearCLIP README Table 2", "CLIP ViT-B/16")
    (row,) = [row for row in rows if (row.method, row.reported_by, row.variant) == key]
    cell, score = row.cells["voc20"], next(f for f in records if f.path.stem == "published").record["metrics"]["mIoU"]
    assert row.state == "measured" and cell.published == "41.8" and cell.measured == pytest.approx(100 * score)
    assert cell.difference == pytest.approx(100 * score - 41.8) and cell.interval is not None
    assert [(row.method, row.variant, row.state) for row in rows if row.run == "clip" and not row.reported_by] == [
        ("clip", "", "measured"), ("clip", "crop=336", "measured"),
    ]  # fmt: skip
    assert len([row for row in rows if row.reported_by]) == len(
        {(r.reported_by, r.method, r.variant, r.postprocess) for r in published_results()}
    )
    assert {row.state for row in board_rows([])} == {
        "not measured", "ovbench does not have this variant", "the table has another protocol",
    }  # fmt: skip


@pytest.mark.slow
def test_the_site_has_every_page_every_link_and_no_other_host(site):
    pages = sorted(site.rglob("*.html"))
    names = {str(path.relative_to(site)) for path in pages}
    assert {f"benchmarks/{name}.html" for name in benchmarks()} < names
    assert {f"methods/{name}.html" for name in METHODS.names()} < names
    by_method = page_names()
    assert {f"methods/{by_method[row.method]}.html" for row in published_results()} < names
    for path in pages:
        page = Page(path)
        assert page.tags.count("h1") == 1 and "style" not in page.tags
        for link in {*page.links}:
            assert not re.match("[a-z]+:|//", link), link
            assert link.startswith("#") or (path.parent / link).is_file(), (path, link)
    assert not re.search(r"https?:|url\(|@import", (site / "site.css").read_text() + (site / "site.js").read_text())


@pytest.mark.slow
def test_pages_say_what_is_measured_and_what_is_not(site):
    index = (site / "index.html").read_text()
    found = re.search(r"Of (\d+) published rows, ovbench has the settings of (\d+); (\d+) of them are measured", index)
    published, runnable, measured = map(int, found.groups())
    assert published > 400 and 1 <= measured < 5 and f"{runnable - measured} nobody has measured yet" in index
    assert "Records of ovbench measure voc20." in index  # not the photos, which toy networks labelled
    warned = {path.name for path in site.rglob("*.html") if "!: clip is a &lt;toy&gt;." in path.read_text()}
    assert {"index.html", "cost.html"} < warned and "voc20.html" not in warned and len(warned) == 3
    assert "Nobody has measured this benchmark" in (site / "benchmarks" / "voc21.html").read_text()
    assert "Nobody has measured this benchmark" not in (site / "benchmarks" / "voc20.html").read_text()
    clip = (site / "methods" / "clip.html").read_text()
    assert "published-1.png" in clip and "arXiv" in clip and "common.toml" in clip
    assert "cost on 8 images: 0.05 s per image alone, 40 images per second in batches, 86.0 M parameters" in clip
    assert "ovbench eval -m" in clip and json.loads((site / "records" / "published.json").read_text())["schema"]


@pytest.mark.slow
def test_names_of_others_are_text(site):
    for path in site.rglob("*.html"):
        assert "<img src=x" not in path.read_text(), path
    page = next(path for path in (site / "methods").iterdir() if "onerror" in path.stem)
    assert "&lt;img src=x" in page.read_text()


def test_only_a_folder_of_an_earlier_site_is_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        write_site([], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_the_documentation_site_gets_it(tmp_path):
    path = ROOT / "scripts" / "mkdocs_leaderboard.py"
    spec = importlib.util.spec_from_file_location("mkdocs_leaderboard", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.on_post_build({"site_dir": str(tmp_path)})
    index = (tmp_path / "board" / "index.html").read_text()
    assert "Nobody has measured a real benchmark with ovbench yet" in index and "records/corrclip-mini-" in index
    module.on_post_build({"site_dir": str(tmp_path)})  # again, over the earlier one


@pytest.mark.parametrize(
    ("variant", "postprocess", "expected"),
    [
        ("MetaCLIP ViT-B/16 + DINO ViT-B/8 + SAM2 32x32 points", "sam-masks",
         (("MetaCLIP",), ("B",), ("DINO", "SAM2"), ("SAM",))),
        ("CLIP ViT-L/14", "pamr", (("CLIP (OpenAI)",), ("L",), ("none",), ("none",))),
        ("OpenCLIP LAION-2B ViT-H/14 + DINOv2 ViT-B/14", "none",
         (("OpenCLIP",), ("H or larger",), ("DINOv2",), ("none",))),
        ("MetaCLIP ViT-B/16 + C-RADIOv3-L + EntitySeg", "sam-masks",
         (("MetaCLIP",), ("B",), ("C-RADIO",), ("entity or panoptic masks",))),
    ],
)  # fmt: skip
def test_resources_are_read_from_the_words_of_a_row(variant, postprocess, expected):
    row = PublishedFigure("m", variant, "training-free", "voc21", "mIoU", "1", postprocess, "", "", "")
    assert resources_of_figure(row)[:4] == expected


def test_resources_of_a_record_are_those_of_its_cell():
    cell = resolve("corrclip", "voc21").as_dict()
    found = resources_of_cell(cell, "training-free")
    assert found[:4] == (("MetaCLIP",), ("B",), ("DINO",), ("SAM",))
    large = resolve("corrclip", "voc21", None, {"clip": "laion-h"}).as_dict()
    assert resources_of_cell(large, "")[:2] == (("OpenCLIP",), ("H or larger",))
    assert resources_of_cell(resolve("clip", "mini").as_dict(), "")[0] == ("networks of mini",)


def test_points_of_a_plot_lie_between_the_ticks_and_labels_do_not_cover_each_other():
    points = [Point(0.1 * n, 50 + n % 3, f"method {n}") for n in range(8)]
    made = scatter(points, "s", "mIoU")
    assert [place for place, _ in made["x_ticks"]] == sorted(place for place, _ in made["x_ticks"])
    assert all(made["left"] <= p["x"] <= made["right"] for p in made["points"])
    assert all(made["top"] <= p["y"] <= made["bottom"] for p in made["points"])
    assert len({(p["label_x"], p["label_y"]) for p in made["points"]}) == 8
    assert scatter([Point(0.0, 0.0, "a")], "s", "mIoU")["points"]
