"""Counts are used again only for the same images, labels, settings, files and code; what is used again is told."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ovbench.evaluation import identity
from ovbench.evaluation.ledger import LedgerWriter
from ovbench.evaluation.record import EARLIER

IDS = ("a", "b", "c")
SMALL = ("--set", "short_side=48", "--set", "crop=48", "--set", "stride=48", "--set", "pad=0", "--weights", "clip=mini")
CARD = """
title = "Street"
classes = "classes.txt"
{more}
[[layout]]
image = "images/{{id}}.png"
label = "labels/{{id}}.png"
"""


def write_data(folder, seed=0, ids=IDS, more="", title="Street"):
    """A card with three images of three classes; other seeds give other pixels under the same names."""
    random = np.random.default_rng(seed)
    for kind, shape in (("images", (48, 60, 3)), ("labels", (48, 60))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i in ids:
            pixels = random.integers(0, 255 if kind == "images" else 3, shape, np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{i}.png")
    (folder / "classes.txt").write_text("road\ngrass\nsky\n")
    (folder / "card.toml").write_text(CARD.format(more=more).replace("Street", title))
    return folder


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


@pytest.fixture
def run(ovbench, tmp_path, monkeypatch):
    """``run(folder, ...)`` evaluates into one folder; stdout is the record."""
    from ovbench.data.card import load_card

    def evaluate(folder, *more, method="clip", out="runs", code=0):
        load_card.cache_clear()
        done = ovbench(
            "eval", "-m", method, "-d", folder / "card.toml", "--data-root", folder, "--out", tmp_path / out, "--json",
            *SMALL, *more,
        )  # fmt: skip
        assert done.code == code, done.err
        return done

    return evaluate


def counted(done):
    return done.json()["time"]["images_counted_now"]


def records(tmp_path, out="runs"):
    return sorted(path.name for path in (tmp_path / out).glob("*.json"))


@pytest.mark.slow
def test_a_repeated_command_keeps_the_record_and_tells_the_date(run, data, tmp_path, monkeypatch):
    first = run(data).json()
    (path,) = (tmp_path / "runs").glob("*.json")
    before = path.read_bytes()
    monkeypatch.setattr("ovbench.utils.provenance.git_revision", lambda: {"commit": "0" * 40, "modified": False})
    again = run(data)
    date = first["time"]["started"][:16].replace("T", " ")
    assert f"3 of 3 images were counted on {date} UTC" in again.err
    assert path.read_bytes() == before and again.json() == first
    path.unlink()  # made again, it tells what made the counts
    made = run(data).json()
    assert made["git"] == first["git"] and made["time"]["started"] == first["time"]["started"]
    assert made["time"]["counted"] == first["time"]["counted"] and made["time"]["images_counted_now"] == 0


@pytest.mark.slow
def test_a_grown_ledger_tells_both_revisions(run, data, monkeypatch):
    for number, limit in ((1, "2"), (2, "3")):
        monkeypatch.setattr(
            "ovbench.utils.provenance.git_revision",
            lambda number=number: {"commit": str(number) * 40, "modified": False},
        )
        record = run(data, "--limit", limit).json()
    assert record["git"]["commit"] == f"{'1' * 40}, {'2' * 40}"
    assert [(part["images"], part["commit"][0]) for part in record["time"]["counted"]] == [(2, "1"), (1, "2")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_changed_file_is_counted_again(run, data, tmp_path, kind):
    first = run(data).json()
    other = write_data(tmp_path / "other", seed=1)
    shutil.copy(other / kind / "b.png", data / kind / "b.png")
    again = run(data)
    assert "1 of 3 images has changed since it was counted: b; counted again" in again.err
    assert counted(again) == 1 and again.json()["counts"] != first["counts"]
    assert again.json()["counts"] == run(data, out="new").json()["counts"]
    assert len(records(tmp_path)) == 1


@pytest.mark.slow
def test_a_copy_with_other_dates_is_the_same(run, data, tmp_path):
    first = run(data).json()
    for path in data.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    assert run(data).json() == first


@pytest.mark.slow
def test_other_data_of_the_same_names(run, data, tmp_path):
    clean = run(data).json()
    fog = write_data(tmp_path / "fog", seed=2)
    alone = run(fog, out="alone").json()
    assert run(fog).json()["counts"] == alone["counts"] != clean["counts"]
    assert run(data).json()["counts"] == clean["counts"]


@pytest.mark.slow
def test_a_run_that_was_killed_over_changed_files_leaves_no_mixture(run, data, tmp_path, monkeypatch):
    run(data)
    shutil.copytree(write_data(tmp_path / "fog", seed=2), data, dirs_exist_ok=True)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ovbench.evaluation.runner.evaluate", killed)
        run(data, code=130)
    (path,) = (tmp_path / "runs").glob("*-partial.json")
    assert json.loads(path.read_text())["dataset"]["images"] == 0
    assert counted(run(data)) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("background = 0", "dataset.background"),
        ("[encoding.index]\nvoid = [255, 9]", "dataset.encoding_sha256"),
        ("image_count = 4", "dataset.split_images"),
    ],
)
def test_a_corrected_card_is_another_ledger(run, data, more, field):
    first = run(data).json()
    text = (data / "card.toml").read_text()
    (data / "card.toml").write_text(text + more if more.startswith("[") else more + text)
    again = run(data)
    assert f"differs in {field}" in again.err and counted(again) == 3
    assert again.json()["ledger"] != first["ledger"]


@pytest.mark.slow
def test_more_images_in_the_folder_are_another_list(run, data):
    run(data)
    write_data(data, ids=(*IDS, "d"))
    assert counted(run(data)) == 4


@pytest.mark.slow
def test_class_names_precision_and_weights_do_not_collide(run, data, tmp_path):
    (tmp_path / "words.txt").write_text("street\nlawn\nheaven\n")
    first = run(data).json()
    assert "differs in dataset.class_list" in run(data, "--classes", tmp_path / "words.txt").err
    run(data, "--precision", "bf16")
    assert run(data).json() == first and len(records(tmp_path)) == 3


@pytest.mark.slow
def test_files_that_settings_name(run, data, tmp_path):
    descriptions = {name: [f"a {name}."] for name in ("road", "grass", "sky")}
    plain = {"format": 1, "vocabulary": "", "model": "m", "prompt": "{name}", "descriptions": descriptions}
    path = tmp_path / "said.json"
    path.write_text(json.dumps(plain))
    first = run(data, "--set", f"descriptions={path}")
    descriptions["sky"] = ["blue above."]
    path.write_text(json.dumps(plain))
    again = run(data, "--set", f"descriptions={path}")
    assert "differs in files.protocol.descriptions" in again.err and counted(again) == counted(first) == 3


@pytest.mark.slow
def test_region_maps_are_noted_image_by_image(run, data, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    for number, i in enumerate(IDS):
        np.savez(maps / f"{i}.npz", instance_mask=np.arange(48 * 60).reshape(48, 60) // (700 + number))
    arguments = ("--set", "regions=precomputed", "--set", f"regions.folder={maps}", "--weights", "dino=mini")
    run(data, *arguments, method="corrclip")
    assert counted(run(data, *arguments, method="corrclip")) == 3  # the record as it was
    np.savez(maps / "c.npz", instance_mask=np.arange(48 * 60).reshape(48, 60) // 90)
    again = run(data, *arguments, method="corrclip")
    assert "changed since it was counted: c; counted again" in again.err and counted(again) == 1


METHOD = """from ovbench.methods.base import PatchFeatures
from ovbench.methods.clip import CLIP

class Mine(CLIP):
    def encode(self, batch):
        from {helper} import SIGN
        f = super().encode(batch)
        return PatchFeatures(SIGN * f[0], f[1])
"""


@pytest.mark.slow
def test_a_helper_beside_the_file_of_a_method(run, data, tmp_path, monkeypatch):
    import sys

    (tmp_path / "mine.py").write_text(METHOD.format(helper="sign_of_it"))
    (tmp_path / "sign_of_it.py").write_text("SIGN = 1\n")
    (tmp_path / "unrelated.py").write_text("SIGN = 1\n")
    first = run(data, method=f"{tmp_path / 'mine.py'}:Mine").json()
    (tmp_path / "unrelated.py").write_text("SIGN = 2\n")
    assert run(data, method=f"{tmp_path / 'mine.py'}:Mine").json() == first
    (tmp_path / "sign_of_it.py").write_text("SIGN = -1\n")
    monkeypatch.delitem(sys.modules, "sign_of_it", raising=False)
    again = run(data, method=f"{tmp_path / 'mine.py'}:Mine")
    assert "differs in code.method" in again.err and counted(again) == 3
    assert again.json()["counts"] != first["counts"] and len(records(tmp_path)) == 1


@pytest.mark.slow
def test_a_partial_run_leaves_the_complete_record(run, ovbench, data, tmp_path, caplog):
    """Also one of other code, another device or changed data; a complete run replaces both."""
    complete = run(data).json()
    (path,) = (tmp_path / "runs").glob("*.json")
    before, image = path.read_bytes(), (data / "images/b.png").read_bytes()
    (data / "images/b.png").write_bytes(image[:60])
    partial = run(data, code=4)
    assert path.read_bytes() == before and partial.json()["dataset"]["images"] == 2
    beside = path.with_name(f"{path.stem}-partial.json")
    assert json.loads(beside.read_text()) == partial.json() and f"record: {beside}" in partial.err
    assert f"the complete record of earlier stays ({path}, 3 images" in caplog.text
    table = ovbench("table", "--runs", tmp_path / "runs", "--format", "json").json()
    assert [row["cells"]["card"]["measured"] for row in table["rows"]] == [100 * complete["metrics"]["mIoU"]]
    (data / "images/b.png").write_bytes(image)
    assert run(data).json()["status"] == "complete" and not beside.exists()


@pytest.mark.slow
def test_our_own_code_and_libraries(run, data, monkeypatch, tmp_path):
    first = run(data).json()
    (path,) = (tmp_path / "runs").glob("*.json")
    with monkeypatch.context() as patch:
        patch.setattr(identity, "_package_sha256", lambda: "0" * 64)
        other = run(data)
        assert "differs in code.ovbench" in other.err and counted(other) == 3
    with monkeypatch.context() as patch:
        versions = identity.env.versions()
        patch.setattr("ovbench.utils.provenance.versions", lambda: {**versions, "torch": "9.9"})
        again = run(data)
        assert "is counted again" in again.err and counted(again) == 3
    # one record, of the newest run, that names the ledger of its own counts; each code keeps its ledger
    assert records(tmp_path) == [path.name] and json.loads(path.read_text()) == again.json()
    ledgers = {done["ledger"] for done in (first, other.json(), again.json())}
    assert len(ledgers) == 3 and ledgers == {folder.name for folder in (tmp_path / "runs").glob("*/")}
    back = run(data)
    assert "3 of 3 images were counted on" in back.err and back.json()["ledger"] == first["ledger"]
    assert json.loads(path.read_text()) == back.json()


@pytest.mark.slow
def test_fresh_moves_no_ledger_of_other_code(run, data, monkeypatch, tmp_path):
    first = run(data).json()
    with monkeypatch.context() as patch:
        patch.setattr(identity, "_package_sha256", lambda: "0" * 64)
        run(data)
    again = run(data, "--fresh").json()
    assert again["ledger"] == first["ledger"] and again["time"]["images_counted_now"] == 3
    (kept,) = (tmp_path / "runs" / EARLIER).glob("*/*")
    assert kept.name == first["ledger"]  # the record was of the other code's ledger, which stays where it is


@pytest.mark.slow
def test_fresh_keeps_the_earlier_ledger_and_its_records(run, data, ovbench, tmp_path):
    first = run(data)
    before = {path.name: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")}
    again = run(data, "--fresh")
    assert counted(again) == 3 and "are kept in" in again.err
    kept = {path.name: path.read_bytes() for path in (tmp_path / "runs" / EARLIER).rglob("*.json*")}
    assert kept == before
    (old,), (new,) = (tmp_path / "runs" / EARLIER).glob("*/*.json"), (tmp_path / "runs").glob("*.json")
    assert ovbench("compare", old, new, "--json").json()["mIoU_change"] == 0
    table = ovbench("table", "--runs", tmp_path / "runs", "--format", "json").json()
    assert [cell["record"] for cell in table["rows"][0]["cells"].values()] == [str(new)]
    assert first.json()["counts"] == again.json()["counts"]


@pytest.mark.slow
def test_fresh_under_a_running_run_is_refused(run, data, tmp_path):
    run(data)
    (folder,) = (tmp_path / "runs").glob("*/")
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")}
    header = (folder / "part-0.jsonl").read_bytes().splitlines(keepends=True)[0]
    (folder / "part-5.jsonl").write_bytes(header)
    with LedgerWriter(folder, "5", {}):
        assert "another process is running this cell" in run(data, "--fresh", code=3).err
    (folder / "part-5.jsonl").unlink()
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")} == before


@pytest.mark.slow
def test_a_fresh_shard_leaves_the_other_shards(run, data, tmp_path):
    for shard in ("1/2", "2/2"):
        run(data, "--shard", shard)
    run(data, "--shard", "1/2", "--fresh")
    (folder,) = (path for path in (tmp_path / "runs").glob("*/") if path.name != EARLIER)
    assert {path.name for path in folder.glob("part-*")} == {"part-shard1of2-0.jsonl", "part-shard2of2-0.jsonl"}
    assert counted(run(data, "--shard", "2/2")) == 1


@pytest.mark.slow
def test_a_new_picture_does_not_count_an_image_twice(run, data, tmp_path):
    first = run(data).json()
    (folder,) = (tmp_path / "runs").glob("*/")
    lines = (folder / "part-0.jsonl").read_bytes()
    assert run(data, "--show", "2").json() == first
    assert sorted(path.name for path in folder.glob("*.png")) == ["a.png", "b.png"]
    assert (folder / "part-0.jsonl").read_bytes() == lines


@pytest.mark.slow
def test_an_id_that_stands_twice_in_the_split(run, data):
    text = (data / "card.toml").read_text()
    (data / "card.toml").write_text(text + 'ids = "val.txt"\n')
    (data / "val.txt").write_text("a\nb\nb\nb\nc\n")
    refused = run(data, code=3)
    assert "1 of 3 ids listed more than once, first b" in refused.err


@pytest.mark.slow
def test_cards_of_one_name(run, ovbench, tmp_path):
    one, other = write_data(tmp_path / "one", title="One"), write_data(tmp_path / "other", seed=1, title="Other")
    first, second = run(one).json(), run(other).json()
    assert len(records(tmp_path)) == 2 and run(one).json() == first
    table = ovbench("table", "--runs", tmp_path / "runs", "--format", "json").json()
    shown = {name: cell["measured"] for name, cell in table["rows"][0]["cells"].items()}
    assert shown == {
        "card (One)": pytest.approx(100 * first["metrics"]["mIoU"]),
        "card (Other)": pytest.approx(100 * second["metrics"]["mIoU"]),
    }
    cards = [argument for folder in (one, other) for argument in ("-d", folder / "card.toml")]
    both = ovbench("eval", "-m", "clip", *cards, "--data-root", one, "--out", tmp_path / "runs", *SMALL)
    assert both.code == 2 and 'two cards are called "card"' in both.err


@pytest.mark.slow
def test_shards_of_unlike_data_are_not_merged(run, ovbench, data, tmp_path):
    fog = write_data(tmp_path / "fog", seed=2)
    run(data, "--shard", "1/2", out="s1")
    run(fog, "--shard", "2/2", out="s2")
    folders = [next((tmp_path / name).glob("*/")) for name in ("s1", "s2")]
    done = ovbench("merge", *folders, "--out", tmp_path / "merged")
    assert done.code == 3 and '"data_sha256" is' in done.err and not (tmp_path / "merged").exists()


@pytest.mark.slow
def test_merge_writes_only_where_it_is_told(run, ovbench, data, tmp_path):
    for number in (1, 2):
        run(data, "--shard", f"{number}/2", out=f"s{number}")
    victim = tmp_path / "victim.json"
    victim.write_text("precious")
    folders = [next((tmp_path / name).glob("*/")) for name in ("s1", "s2")]
    for folder in folders:
        (left,) = folder.glob("shard-*.json")
        left.write_text(json.dumps({**json.loads(left.read_text()), "record": "../victim.json"}))
    done = ovbench("merge", *folders, "--out", tmp_path / "merged")
    assert done.code == 0 and victim.read_text() == "precious", done.err
    (merged,) = (tmp_path / "merged").glob("*.json")
    assert json.loads(merged.read_text())["ledger"] == folders[0].name
    for folder in folders:
        (left,) = folder.glob("shard-*.json")
        left.write_text(json.dumps({**json.loads(left.read_text()), "limit": "../../x"}))
    assert "not the manifest of a shard" in ovbench("merge", *folders, "--out", tmp_path / "other").err


@pytest.mark.slow
def test_compare_takes_the_images_of_the_record_and_refuses_a_ledger_that_lacks_some(run, ovbench, data, tmp_path):
    run(data, "--limit", "2")
    run(data)
    short, whole = (tmp_path / "runs" / name for name in sorted(records(tmp_path), key=len, reverse=True))
    assert ovbench("compare", short, whole, "--json").json() | {} == {
        **ovbench("compare", short, short, "--json").json(), "only_in_second": 1,
    }  # fmt: skip
    (part,) = (tmp_path / "runs").glob("*/part-0.jsonl")
    content = part.read_bytes().splitlines(keepends=True)
    content[1] = content[1].replace(b'"a"', b'"x"')
    part.write_bytes(b"".join(content))
    refused = ovbench("compare", short, whole)
    assert refused.code == 3 and "1 damaged line in" in refused.err and "repeat the run" in refused.err
    again = run(data)
    assert "1 damaged line in" in again.err and counted(again) == 1
    assert ovbench("compare", short, whole).code == 0
