"""Our settings of every method on every benchmark against configs/official.csv, and what is said where they differ."""

from __future__ import annotations

import csv
from collections import defaultdict

import pytest

from ovbench.config.load import resolve
from ovbench.config.nearest_published import nearest_published
from ovbench.config.official import NOT_STATED, no_official_setting, official_settings, published_label_rule
from ovbench.config.published_runs import published_runs
from ovbench.config.setting_changes import setting_changes, setting_text
from ovbench.data.card import list_cards
from ovbench.data.descriptions import OFFICIAL_MODEL, DescriptionSet, stand_in, write_set
from ovbench.results.published import published_results
from ovbench.utils.paths import cache_root, shipped
from ovbench.utils.registry import METHODS

BENCHMARKS = sorted(set(list_cards()) - {"mini", "mini-bg"})
PAIRS = [(method, benchmark) for method in METHODS.names() for benchmark in BENCHMARKS]


def plain(method, benchmark, settings=None, weights=None, protocol="paper"):
    return resolve(method, benchmark, settings, weights, protocol, incomplete=True).as_dict()


def test_the_table_names_every_method_and_benchmark_once_and_every_source():
    with shipped("configs", "official.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(r["method"], r["benchmark"]) for r in rows} == set(PAIRS) and len(BENCHMARKS) == 10
    assert all(r["source"] for r in rows)
    keys = [(r["method"], r["benchmark"], r["key"]) for r in rows]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("method", METHODS.names())
def test_settings_are_the_official_ones(method):
    for benchmark in BENCHMARKS:
        official = official_settings()[method, benchmark]
        if no_official_setting(method, benchmark):
            assert not official, benchmark
            continue
        assert {"protocol.short_side", "protocol.crop", "protocol.stride", "protocol.vocabulary"} <= set(official)
        cell = plain(method, benchmark)
        for key, value in official.items():
            if value == NOT_STATED or key == "label_rule":
                continue
            table, _, name = key.partition(".")
            ours = cell[table][name]
            same = float(value) == ours if isinstance(ours, (int, float)) and not isinstance(ours, bool) else False
            same = same or value == setting_text(ours).strip('"')
            assert same, f"{key} is {ours} on {benchmark}, officially {value}"


def test_what_the_official_code_says_elsewhere():
    """Read in the specifications, not generated with the table."""
    assert plain("corrclip", "ade847")["protocol"]["short_side"] == 448
    assert {plain("corrclip", b)["regions"]["source"] for b in BENCHMARKS} == {"sam2-32"}
    assert {plain("corrclip", b)["regions"]["source"] for b in ("mini", "mini-bg")} == {"felzenszwalb"}
    regions = plain("corrclip", "voc21")["regions"]  # what the repository has with 32 points
    assert (regions["points"], regions["iou"], regions["stability"], regions["multimask"]) == (32, 0.7, 0.7, True)
    assert no_official_setting("sclip", "pc459") and not no_official_setting("proxyclip", "pc459")
    assert not no_official_setting("corrclip", "ade847") and no_official_setting("reme", "voc21")
    assert {b for b in BENCHMARKS if published_label_rule(b) == "official"} == {"pc459", "ade847"}


def test_a_run_that_is_published_deviates_in_nothing_and_names_its_sources():
    nearest = nearest_published(plain("clip", "voc20"), "correct")
    assert nearest.deviations == () and nearest.sentence() == ""
    assert set(nearest.sources) == {"ClearCLIP README Table 2", "ResCLIP 2411.15851 without-background table"}
    without_pamr = nearest_published(plain("naclip", "voc21", {"refine": ""}), "correct")
    assert without_pamr.deviations == () and "NACLIP README" not in without_pamr.sources
    assert "NACLIP README" in nearest_published(plain("naclip", "voc21"), "correct").sources


@pytest.mark.parametrize(
    ("method", "benchmark", "settings", "weights", "told"),
    [
        ("corrclip", "voc21", {"regions": "felzenszwalb"}, {}, "regions=felzenszwalb (published: sam2-32)"),
        ("corrclip", "voc21", {"regions": "slic", "tau": "0.5"}, {}, "tau=0.5 (published: 0.25), regions=slic"),
        ("clip", "voc20", {"crop": "336"}, {}, "crop=336 (published: 448)"),
        ("proxyclip", "pc59", {}, {"dino": "dino-s8"}, "dino=dino-s8 (published: vit_base_patch8_224.dino)"),
        ("naclip", "voc21", {"pamr_dilations": "4,8"}, {}, "pamr_dilations=4,8 (published: 8,16)"),
    ],
)
def test_what_differs_is_told_with_the_published_value(method, benchmark, settings, weights, told):
    nearest = nearest_published(plain(method, benchmark, settings, weights), "correct")
    assert told in nearest.sentence() and nearest.sentence().startswith("deviates from the published row: ")
    assert nearest.sources == () and nearest.as_dict()["deviations"]


def test_the_label_rule_counts_where_the_rules_differ():
    assert nearest_published(plain("proxyclip", "pc459"), "official").deviations == ()
    told = nearest_published(plain("proxyclip", "pc459"), "correct").sentence()
    assert "label_rule=correct (published: official)" in told
    for rule in ("correct", "official"):
        assert nearest_published(plain("proxyclip", "voc21"), rule).deviations == ()


def test_class_names_that_are_not_known_to_be_the_paper_s_are_a_deviation():
    told = nearest_published(plain("glaclip", "ade150"), "correct")
    assert "vocabulary=glaclip (published: not known)" in told.sentence() and told.sources == ()
    assert nearest_published(plain("glaclip", "voc21"), "correct").deviations == ()
    for settings in ({}, {"pixels": "true"}):  # LPOSS, LPOSS+
        told = nearest_published(plain("lposs", "voc21", settings), "correct")
        assert [change.setting for change in told.deviations] == ["vocabulary"] and told.sources == ()


def test_no_official_setting_and_no_published_row_are_told_apart():
    nearest = nearest_published(plain("sclip", "pc459"), "official")
    assert nearest.sentence().startswith("no official setting (") and not nearest.as_dict()["official"]
    assert nearest_published(plain("corrclip", "mini"), "correct").sentence() == ""


def test_the_authors_maps_are_the_published_regions():
    maps = plain("corrclip", "voc21", {"regions": "precomputed", "regions.folder": "maps"})
    assert nearest_published(maps, "correct").deviations == ()
    other = plain("corrclip", "voc21", {"regions": "precomputed", "regions.folder": "maps", "tau": "1"})
    assert [str(change) for change in nearest_published(other, "correct").deviations] == ["tau=1.0"]


def test_the_authors_banks_are_found_in_any_folder():
    second = {"auxiliary": "ViT-B-16-quickgelu/dfn2b"}
    settings = {"regions.folder": "maps", "support": "/data/banks/coco"}
    assert nearest_published(plain("corrclipv2", "voc21", {"regions.folder": "maps"}), "correct").deviations == ()
    assert nearest_published(plain("corrclipv2", "voc21", settings, second), "correct").deviations == ()
    other = plain("corrclipv2", "voc21", {**settings, "support": "/data/banks/mine"}, second)
    changed = {change.setting for change in nearest_published(other, "correct").deviations}
    assert changed and changed <= {"support", "auxiliary"}
    alone = nearest_published(plain("corrclipv2", "voc21", settings), "correct").deviations
    assert [change.setting for change in alone] in (["support"], ["auxiliary"])


def test_freecp_without_the_paper_s_descriptions_deviates():
    names = (("background",), ("cat",), ("dog",))
    assert stand_in("", names, 0) == ""
    assert stand_in("none-of-that-name", names, 0) == "none, prompts of the class names"
    path = cache_root() / "descriptions" / "pets.json"
    write_set(path, DescriptionSet("pets", "some-llm", "p", {"cat": ["a cat"], "dog": ["a dog"]}))
    assert stand_in("pets", names, 0) == "by some-llm"
    write_set(path, DescriptionSet("pets", OFFICIAL_MODEL, "p", {"cat": ["a cat"]}))
    assert stand_in("pets", names, 0) == "1 of 2 classes by prompts"
    write_set(path, DescriptionSet("pets", OFFICIAL_MODEL, "p", {"cat": ["a cat"], "dog": ["a dog"]}))
    assert stand_in("pets", names, 0) == ""
    told = nearest_published(plain("freecp", "voc21"), "correct", "by some-llm")
    assert "descriptions=by some-llm" in told.sentence() and told.sources == ()


def test_sources_of_a_run_agree_and_exist():
    """Tables of one protocol have the same figures, but for rounding and for re-runs of the official code."""
    figures = defaultdict(lambda: defaultdict(dict))
    for row in published_results():
        key = (row.method, row.variant, row.postprocess)
        if "[PAS-20b" not in row.note:
            figures[key][row.reported_by][row.benchmark] = float(row.value)
    for key, run in published_runs().items():
        if key == ("CASS", "CLIP ViT-B/16", "none"):
            continue  # pixel accuracy, in another file
        assert set(run.sources) <= set(figures[key]), key
        spread = defaultdict(list)
        for source in run.sources:
            for benchmark, value in figures[key][source].items():
                spread[benchmark].append(value)
        assert all(max(values) - min(values) <= 0.75 for values in spread.values()), key


def test_protocols_that_are_points_apart_are_not_one_run_s():
    run = published_runs()["CLIP", "CLIP ViT-B/16", "none"]
    assert "ClearCLIP README Table 2" in run.sources and "CASS 2411.17150 Table 1" not in run.sources


def test_no_python_spelling_in_what_differs():
    before = plain("cass", "mini", {"pamr_dilations": "1,2"})
    told = [str(change) for change in setting_changes(before, plain("cass", "mini", None, {"clip": "ViT-B-16/openai"}))]
    assert told == ["pamr_dilations=8,16", "clip=ViT-B-16/openai"]
    assert setting_changes(plain("clip", "voc20", None, {"clip": "openai-b"}), plain("clip", "voc20")) == []
    assert [setting_text(v) for v in (True, None, "", [1, 2.5], (3,), "x")] == ["true", "none", '""', "1,2.5", "3", "x"]


def test_a_setting_that_records_leave_out_at_its_default_is_named_with_that_default():
    changed = plain("clip", "mini", {"resize": "pil-bicubic"})
    (there,), (back,) = setting_changes(plain("clip", "mini"), changed), setting_changes(changed, plain("clip", "mini"))
    assert (there.expected, str(there)) == ("opencv-bilinear", "resize=pil-bicubic")
    assert str(back) == "resize=opencv-bilinear"
