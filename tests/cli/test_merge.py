"""`ovbench merge`: shards that ran without knowing of each other give the record of one run, or a reason why not."""

import json
import shutil
import zlib

import pytest

IMAGES = 4
SMALL = ("--set", "short_side=112", "--set", "crop=112", "--set", "stride=56")


COMMAND = ("-m", "maskclip", "-d", "mini", *SMALL)


def run(ovbench, out, *more):
    done = ovbench("eval", *COMMAND, "--limit", IMAGES, "--json", "--out", out, *more)
    assert done.code == 0, done.err
    return done.json()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


def folders(shards):
    return sorted(shards.glob("*/*/"))


@pytest.fixture
def ran(ovbench, shards):
    """The cell folders of shards 1/2 and 2/2, run once."""
    if not folders(shards):
        for number in (1, 2):
            run(ovbench, shards / str(number), "--shard", f"{number}/2")
    return folders(shards)


def comparable(record):
    return {key: value for key, value in record.items() if key not in ("time", "git")}


@pytest.mark.slow
def test_the_record_is_that_of_one_run(ovbench, ran, tmp_path):
    whole = run(ovbench, tmp_path / "whole")
    merged = ovbench("merge", *reversed(ran), "--out", tmp_path / "merged", "--json")
    assert merged.code == 0, merged.err
    assert comparable(merged.json()) == comparable(whole)
    (path,) = (tmp_path / "merged").glob("*.json")
    assert path.name == next((tmp_path / "whole").glob("*.json")).name
    assert json.loads(path.read_text()) == merged.json()
    again = ovbench("merge", *ran, "--out", tmp_path / "merged", "--json")
    assert comparable(again.json()) == comparable(whole)
    before = path.read_bytes()
    assert run(ovbench, tmp_path / "merged") == again.json()  # its ledger is as good as any
    assert path.read_bytes() == before


def test_shards_in_one_folder(ovbench, ran, tmp_path):
    target = tmp_path / ran[0].name
    for folder in ran:
        shutil.copytree(folder, target, dirs_exist_ok=True)
    merged = ovbench("merge", target, "--out", tmp_path, "--json")
    assert merged.code == 0 and merged.json()["dataset"]["images"] == IMAGES


def alter(folder, change):
    (path,) = folder.glob("shard-*.json")
    left = json.loads(path.read_text())
    change(left)
    path.write_text(json.dumps(left))


def test_what_was_approximate_stays_said(ovbench, ran, tmp_path):
    copies = [shutil.copytree(folder, tmp_path / str(n) / folder.name) for n, folder in enumerate(ran)]
    measured = {"search": {"by": "faiss", "recall": 0.9}}
    for folder in copies:
        alter(folder, lambda left: left.update(approximate=measured))
    assert ovbench("merge", *copies, "--out", tmp_path / "all", "--json").json()["approximate"] == measured
    assert "approximate" not in ovbench("merge", *ran, "--out", tmp_path / "exact", "--json").json()


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda a, b: [a], "not every shard exactly once: missing 2/2"),
        (lambda a, b: [a, a], "not every shard exactly once: missing 2/2; duplicate 1/2"),
        (lambda a, b: [a, b, b], "duplicate 2/2"),
        (lambda a, b: [a, b.parent], "no ledger in the folder"),
        (lambda a, b: alter(b, lambda left: left["versions"].update(torch="0.1")) or [a, b], '"versions.torch" is'),
        (lambda a, b: alter(b, lambda left: left.update(shard=[2, 3])) or [a, b], '"shards" is 2'),
        (lambda a, b: cut(b) or [a, b], "shard 2/2 is not finished: 1 of 2 images missing"),
        (lambda a, b: next(b.glob("shard-*")).unlink() or [a, b], "no shard in the folder"),
    ],
)
def test_refused(ovbench, ran, tmp_path, prepare, message):
    copies = [shutil.copytree(folder, tmp_path / folder.parent.name / folder.name) for folder in ran]
    done = ovbench("merge", *prepare(*copies), "--out", tmp_path / "merged")
    assert done.code == 3 and message in done.err and "Traceback" not in done.err, done.err
    assert not (tmp_path / "merged").exists()


@pytest.mark.slow
def test_unlike_devices_are_merged_when_told_to_and_listed(ovbench, ran, tmp_path):
    copies = [shutil.copytree(folder, tmp_path / str(n) / folder.name) for n, folder in enumerate(ran)]
    (part,) = copies[1].glob("part-*.jsonl")
    of_another_model(part)
    alter(copies[1], lambda left: left["device"].update(name="another model"))
    refused = ovbench("merge", *copies, "--out", tmp_path / "merged")
    assert refused.code == 3 and "another model" in refused.err and "--mixed-devices" in refused.err
    merged = ovbench("merge", *copies, "--out", tmp_path / "merged", "--json", "--mixed-devices").json()
    assert "another model" in [device["name"] for device in merged["devices"]] and len(merged["devices"]) == 2
    assert "devices" not in ovbench("merge", *ran, "--out", tmp_path / "alike", "--json").json()
    more = ("--out", tmp_path / "1", "--shard", "2/2", "--limit", IMAGES + 2)
    resumed = ovbench("eval", *COMMAND, *more)
    assert resumed.code == 3 and "the counts are from unlike devices" in resumed.err
    told = ovbench("eval", *COMMAND, *more, "--mixed-devices")
    assert told.code == 0, told.err


def of_another_model(part):
    found = []
    for line in part.read_bytes().splitlines():
        value = json.loads(line.partition(b" ")[2])
        if "run" in value:
            value["run"]["device"]["name"] = "another model"
        body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        found.append(b"%08x " % zlib.crc32(body) + body)
    part.write_bytes(b"".join(found))


def cut(folder):
    (part,) = folder.glob("part-*.jsonl")
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:-1]))


@pytest.mark.slow
def test_unlike_headers_are_refused_by_the_field(ovbench, ran, tmp_path):
    run(ovbench, tmp_path / "other", "--shard", "2/2", "--set", "prob_thd=0.3")
    (other,) = (tmp_path / "other").glob("*/")
    done = ovbench("merge", ran[0], other, "--out", tmp_path / "merged")
    assert done.code == 3 and '"cell.protocol.prob_thd" is ' in done.err
