"""Subsets cover every class, are the same for the same seed, and notice changed files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import raw_benchmarks as raw
from click.testing import CliRunner

from ovbench.cli.data import data
from ovbench.data.availability import dataset_rows
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.data.subset import choose_subset, classes_in, read_manifest, write_manifest
from ovbench.utils.errors import InputError, UsageError


@pytest.fixture
def many(tmp_path):
    """40 images: each shows wall and another class, the last all of them."""
    raw.ade150(tmp_path, n=40)
    for k, path in enumerate(sorted(tmp_path.glob("**/annotations/**/*.png"))):
        raw.label(path, raw.mosaic(range(151) if k == 39 else [1, k + 1]))
    return open_dataset(load_card("ade150"), tmp_path)


def test_every_class_is_covered_rarest_first(many):
    choice = choose_subset(many, 5)
    assert choice.left_out == () and choice.absent == ()
    assert len(choice.manifest.entries) == 5 and choice.manifest.entries[-1].id == "ADE_val_00000040"
    assert [e.id for e in choice.manifest.entries] == sorted(e.id for e in choice.manifest.entries)


@pytest.mark.slow
def test_classes_without_room_and_without_image_are_named(many, tmp_path):
    raw.label(sorted(tmp_path.glob("**/annotations/**/*.png"))[39], np.full((48, 64), 1))
    choice = choose_subset(many, 3)
    assert len(choice.absent) == 150 - 39 and len(choice.left_out) == 39 - 1 - 3  # each shows wall and one more


@pytest.mark.slow
def test_the_seed_decides(many):
    first, again, other = (choose_subset(many, 10, seed).manifest for seed in (0, 0, 1))
    assert first == again and first.sha256 == again.sha256 != other.sha256
    assert choose_subset(many, 10, workers=2).manifest == first


def test_a_manifest_selects_and_pins(many, tmp_path):
    manifest = choose_subset(many, 4).manifest
    write_manifest(manifest, tmp_path / "s.json")
    assert read_manifest(tmp_path / "s.json") == manifest
    part = manifest.select(many)
    assert [item.id for item in part.items] == [e.id for e in manifest.entries] and len(part) == 4
    assert part.ids_sha256 != many.ids_sha256
    label = part.items[0].label_path
    raw.label(label, np.full((48, 64), 7))
    with pytest.raises(InputError, match=rf"has changed since the subset was made \(ade150, {part.items[0].id}\)"):
        manifest.select(many)


def test_a_manifest_holds_in_every_layout(tmp_path):
    maps = raw.coco(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name, classes in maps.items():
        raw.label(tmp_path / f"b/annotations_detectron2/val2017/{name}.png", np.where(classes < 0, 255, classes))
    (tmp_path / "b/images").mkdir()
    (tmp_path / "b/val2017").rename(tmp_path / "b/images/val2017")
    shutil.rmtree(tmp_path / "b/stuffthingmaps")
    one, two = (open_dataset(load_card("coco-stuff"), tmp_path / root) for root in "ab")
    assert one.layout != two.layout
    manifest = choose_subset(one, 2).manifest
    assert len(manifest.select(two)) == 2 == len(manifest.select(two.with_rule("official")))


@pytest.mark.slow
def test_wrong_counts_and_manifests(many, tmp_path):
    for count in (0, 41):
        with pytest.raises(UsageError, match=rf"cannot take {count} of 40 images \(-n\); give 1..40"):
            choose_subset(many, count)
    manifest = choose_subset(many, 2).manifest
    path = tmp_path / "s.json"
    write_manifest(manifest, path)
    good = json.loads(path.read_text())
    for change, message in (
        ({"seed": 0, "images": good["images"][:1]}, "the manifest was changed"),
        ({"images": []}, '"images" must be a list of 1 or more'),
        ({"format": "other"}, '"format" must be "ovbench-subset-1"'),
        ({"images": [{"id": "x"}]}, r'not a subset manifest: "images\[0\].image" is missing'),
        ({"seed": "0"}, '"seed" must be a whole number'),
        ({"sed": 0}, 'unknown key "sed".*did you mean "seed"'),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError, match=message):
            read_manifest(path)
    path.write_text("[")
    with pytest.raises(InputError, match="malformed JSON"):
        read_manifest(path)
    with pytest.raises(InputError, match="cannot read the file"):
        read_manifest(tmp_path / "gone.json")
    raw.voc(tmp_path)
    with pytest.raises(UsageError, match="the subset is of ade150, not of voc21"):
        manifest.select(open_dataset(load_card("voc21"), tmp_path))


@pytest.mark.slow
def test_the_command(many, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(data, ["subset", "ade150", "-n", "3", "--seed", "5", "--data-root", str(tmp_path)])
    assert result.exit_code == 0 and "ade150-subset-3-5.json: 3 of 40 images" in result.stdout
    assert read_manifest("ade150-subset-3-5.json").seed == 5
    arguments = ["subset", "ade150", "-n", "2", "--out", "x.json", "--json", "--data-root", str(tmp_path)]
    facts = json.loads(CliRunner().invoke(data, arguments).stdout)
    assert facts["file"] == "x.json" and facts["sha256"] == read_manifest("x.json").sha256
    assert classes_in(many, 0) == (0,)


@pytest.mark.slow
def test_the_state_of_every_benchmark(tmp_path, monkeypatch):
    import dataclasses

    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    root.mkdir()
    raw.ade150(root)
    raw.voc(root)
    raw.pascal_context(root)
    small = {name: dataclasses.replace(load_card(name), image_count=3, ids_sha256=None) for name in ("ade150", "voc20")}
    monkeypatch.setattr("ovbench.data.availability.load_card", lambda name: small.get(name) or load_card(name))
    monkeypatch.setattr("ovbench.data.card.load_card", lambda name: small.get(name) or load_card(name))

    def states():
        return {row["name"]: row["state"] for row in dataset_rows(root)}

    before = states()
    assert before["ade150"] == before["voc20"] == "present" and before["voc21"] == "incomplete"
    assert before["pc60"] == "unprepared" and before["coco-stuff"] == "absent" and before["mini"] == "built in"
    assert CliRunner().invoke(data, ["verify", "ade150", "--data-root", str(root)]).exit_code == 0
    assert states() == {**before, "ade150": "verified"}
    raw.label(next(root.glob("**/annotations/**/*.png")), np.full((48, 64), 3))
    assert states() == before
    assert all(row["state"] in ("absent", "built in") for row in dataset_rows())
