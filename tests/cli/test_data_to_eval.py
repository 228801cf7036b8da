"""From raw downloads to a score, through the command line: prepare, verify, eval."""

from __future__ import annotations

import json

import numpy as np
import pytest
import raw_benchmarks as raw
from click.testing import CliRunner

from ovbench.cli import cli
from ovbench.utils.errors import InputError

BUILDERS = {  # the preparation of each benchmark: what builds the raw form, and where the source is
    "voc21": raw.voc,
    "voc20": raw.voc,
    "pc60": raw.pascal_context,
    "pc59": raw.pascal_context,
    "pc459": raw.pascal_context_459,
    "coco-object": raw.coco,
    "coco-stuff": raw.coco,
    "cityscapes": raw.cityscapes,
    "ade150": raw.ade150,
    "ade847": raw.ade_full,
}
AS_DOWNLOADED = ("voc21", "voc20", "ade150")
SMALL = [
    "--weights", "clip=mini", "--set", "templates=identity_1", "--set", "short_side=32", "--set", "crop=32",
    "--set", "stride=32", "--set", "pad=8", "--set", "vocabulary=", "--device", "cpu",
]  # fmt: skip


def call(*arguments):
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def classes_of(name, maps):
    if name in ("voc20", "pc59"):
        return [np.where(m > 0, m - 1, raw.VOID) for m in maps.values()]
    return [raw.coco_object_of(m) if name == "coco-object" else m for m in maps.values()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """All ten benchmarks, raw, then prepared into one data root; and their class maps."""
    base = tmp_path_factory.mktemp("benchmarks")
    root, maps = base / "data", {}
    for name, build in BUILDERS.items():
        source = root if name in AS_DOWNLOADED else base / build.__name__
        maps[name] = classes_of(name, build(source, 2 if name.startswith("ade") else 1))
        if name not in AS_DOWNLOADED:
            call("data", "prepare", name, "--source", source, "--data-root", root, "--workers", 1)
    return root, maps


@pytest.mark.slow
def test_every_benchmark_is_verified_and_scored(data, tmp_path):
    root, maps = data
    call("data", "verify", *BUILDERS, "--data-root", root, "--partial", "--workers", 1)
    asked = [option for name in BUILDERS for option in ("-d", name)]
    rule = ("--label-rule", "correct")
    result = call("eval", "-m", "clip", *asked, "--data-root", root, "--out", tmp_path, "--json", *rule, *SMALL)
    records = {record["cell"]["dataset"]: record for record in json.loads(result.stdout)}
    assert list(records) == list(BUILDERS)
    warning = "clip is a toy network of mini, trained on drawn images only: labels of photographs are meaningless"
    assert all(record["notes"] == [warning] for record in records.values())
    assert f"warning: voc21: {warning}" in result.stderr
    for name, record in records.items():
        assert record["status"] == "complete" and record["dataset"]["images"] == len(maps[name])
        labels = np.concatenate([m.ravel() for m in maps[name]])
        expected = np.bincount(labels[labels >= 0], minlength=len(record["dataset"]["classes"]))
        assert record["counts"]["labelled"] == expected.tolist()


@pytest.mark.slow
def test_the_official_rule_drops_the_class_255(data, tmp_path):
    root, maps = data
    arguments = ["eval", "-m", "clip", "-d", "ade847", "--data-root", root, "--json", *SMALL]
    correct, official = (
        json.loads(call(*arguments, "--out", tmp_path / rule, "--label-rule", rule).stdout)["counts"]
        for rule in ("correct", "official")
    )
    assert correct["labelled"][255] > 0 == official["labelled"][255]
    void = sum(int((m == raw.VOID).sum()) for m in maps["ade847"])
    kept = sum(official["predicted"]) - sum(official["labelled"])
    assert kept == void > 0 == sum(correct["predicted"]) - sum(correct["labelled"])


@pytest.mark.slow
def test_the_rule_of_the_published_figures_is_the_default_of_the_paper_s_protocol(data, tmp_path):
    root, _ = data
    for number, (name, words, rule) in enumerate(
        [
            ("ade847", (), "official"), ("pc459", (), "official"), ("ade150", (), "correct"),
            ("ade847", ("--protocol", "common"), "correct"), ("ade847", ("--label-rule", "correct"), "correct"),
        ]
    ):  # fmt: skip
        out = tmp_path / str(number)
        done = call("eval", "-m", "proxyclip", "-d", name, "--data-root", root, "--out", out, "--json", *words, *SMALL,
                    "--weights", "dino=mini")  # fmt: skip
        record = json.loads(done.stdout)
        assert record["dataset"]["label_rule"] == rule
        told = [one["setting"] for one in record["published"]["deviations"]]
        assert ("label_rule" in told) == (name == "ade847" and rule == "correct")


@pytest.mark.slow
def test_what_differs_from_the_published_row_is_in_the_plan_the_record_and_the_summary(data, tmp_path):
    root, _ = data
    words = ["eval", "-m", "corrclip", "-d", "ade150", "--data-root", root, "--out", tmp_path, *SMALL]
    done = call(*words, "--weights", "dino=mini", "--set", "regions=felzenszwalb")
    plan = next(line for line in done.stderr.splitlines() if line.startswith("planned: "))
    assert ", regions felzenszwalb, on cpu; deviates from the published row: " in plan
    assert "regions=felzenszwalb (published: sam2-32)" in plan and "short_side=32 (published: 448)" in plan
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    told = {one["setting"]: (one["published"], one["value"]) for one in record["published"]["deviations"]}
    assert told["regions"] == ("sam2-32", "felzenszwalb") and told["crop"] == (336, 32)
    assert record["published"]["official"] and record["published"]["sources"] == []


def test_missing_region_weights_are_said_before_anything_runs(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    words = ["eval", "-m", "corrclip", "-d", "ade150", "--data-root", data[0], "--out", tmp_path, *SMALL]
    error = CliRunner().invoke(cli, [str(word) for word in (*words, "--weights", "dino=mini")]).exception
    assert isinstance(error, InputError)
    for part in (
        "model.safetensors of facebook/sam2-hiera-large (0.9 GB)", "ovbench masks build --dataset ade150",
        "--regions sam2-32", "--set regions=felzenszwalb", "deviation",
    ):  # fmt: skip
        assert part in str(error), part
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_subset_is_scored_and_its_images_are_in_the_record(data, tmp_path):
    root, _ = data
    file = tmp_path / "two.json"
    chosen = json.loads(call("data", "subset", "ade150", "-n", 2, "--out", file, "--data-root", root, "--json").stdout)
    arguments = ["eval", "-m", "clip", "-d", "ade150", "--data-root", root, "--out", tmp_path, "--json", *SMALL]
    record = json.loads(call(*arguments, "--subset", file).stdout)
    assert record["dataset"]["images"] == 2 and chosen["images"] == 2
