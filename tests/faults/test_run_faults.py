"""What goes wrong around a run: each with its message, its exit code and what is left on disk."""

import contextlib
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovbench.config.load import resolve
from ovbench.data import decode
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.evaluation.ledger import LedgerWriter
from ovbench.inference.pipeline import build_pipeline
from ovbench.methods.maskclip import MaskCLIP
from ovbench.utils.cached_folder import cached_folder
from ovbench.utils.errors import InputError, warn_once


def evaluate(out, *more):
    return ("eval", "-m", "maskclip", "-d", "mini", "--limit", 2, "--json", "--out", out, *more)


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


@pytest.fixture
def full_disk(monkeypatch):
    """``full_disk(text, after=n)``: no space for files with the text in their name, from the n-th write on."""

    def fill(text, after=0):
        sync, seen = os.fsync, []

        def fsync(number):
            if text in os.path.basename(os.readlink(f"/proc/self/fd/{number}")):
                seen.append(number)
                if len(seen) > after:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(number)

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of open files come from /proc")


@pytest.mark.slow
@needs_proc
def test_no_space_for_the_ledger(ovbench, full_disk, tmp_path):
    full_disk("part-", after=1)  # the header fits; the images of the next second are flushed together
    done = ovbench(*evaluate(tmp_path))
    assert done.code == 3 and "cannot write the ledger: No space left on device" in done.err
    assert "counted images are kept" in done.err and done.out == ""
    (record,) = tmp_path.glob("*.json")
    assert json.loads(record.read_text())["status"] in ("partial", "complete")


@pytest.mark.slow
@needs_proc
def test_no_space_for_the_record(ovbench, full_disk, monkeypatch, tmp_path):
    full_disk(".json.")  # the temporary file
    done = ovbench(*evaluate(tmp_path))
    assert done.code == 3 and "cannot write the file: No space left on device" in done.err
    assert left(tmp_path) == ["part-0.jsonl"]  # every count, no half of a record
    monkeypatch.undo()


@pytest.mark.slow
@needs_proc
def test_no_space_for_the_cache_costs_only_time(ovbench, full_disk, monkeypatch, tmp_path):
    ovbench("eval", "-m", "maskclip", "-d", "mini", "--limit", 1, "--out", tmp_path / "drawn")
    monkeypatch.setattr("ovbench.inference.text_embedding.cache_root", lambda: tmp_path / "cache")
    full_disk(".safetensors")
    assert ovbench(*evaluate(tmp_path / "runs")).code == 0
    assert left(tmp_path / "cache") == []


def test_output_that_cannot_be_written(ovbench, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = ovbench(*evaluate(tmp_path / "file"))
    assert done.code == 2 and "is a file, not a folder" in done.err, done.err
    assert left(tmp_path) == ["file"]


@pytest.mark.slow
def test_two_runs_of_one_cell(ovbench, tmp_path):
    assert ovbench(*evaluate(tmp_path)).code == 0
    (folder,) = tmp_path.glob("*/")
    (record,) = tmp_path.glob("*.json")
    before = record.read_bytes()
    with LedgerWriter(folder, "0", {}):
        done = ovbench(*evaluate(tmp_path))
    assert done.code == 3 and "another process is running this cell" in done.err
    assert record.read_bytes() == before


@pytest.mark.slow
def test_scores_that_are_no_numbers(ovbench, monkeypatch, tmp_path):
    score = MaskCLIP.score
    monkeypatch.setattr(MaskCLIP, "score", lambda self, features, queries: score(self, features, queries) * torch.nan)
    done = ovbench(*evaluate(tmp_path))
    record = json.loads(done.out)
    assert done.code == 4 and record["status"] == "partial" and record["metrics"]["mIoU"] is None
    assert len(record["failed"]) == 2 and "returned scores that are NaN or infinite" in done.err
    stopped = ovbench(*evaluate(tmp_path / "fast", "--fail-fast"))
    assert stopped.code == 4 and "error: MaskCLIP returned scores that are NaN or infinite (" in stopped.err
    assert stopped.err.count("error:") == 1


def test_fail_fast_on_an_image_that_cannot_be_read(ovbench, monkeypatch, tmp_path):
    def refuse(path, *more):
        raise InputError(f'the image "{path.name}" is empty', fix="copy the file again")

    monkeypatch.setattr("ovbench.data.dataset.read_image_file", refuse)
    stopped = ovbench(*evaluate(tmp_path, "--fail-fast"))
    assert stopped.code == 4 and "is empty (" in stopped.err and "copy the file again" in stopped.err, stopped.err


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("this-must-never-exist",)


@pytest.mark.slow
def test_a_hostile_checkpoint(ovbench, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile()}, tmp_path / "clip.pt")
    done = ovbench(*evaluate(tmp_path / "runs", "--weights", f"clip=ViT-B-16@{tmp_path / 'clip.pt'}"))
    assert done.code == 3 and "contains more than tensors and was not opened" in done.err
    assert left(tmp_path) == ["clip.pt"] and not (tmp_path / "this-must-never-exist").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-m", "../clip", "-d", "mini"), 2, 'unknown method "../clip"'),
        (("-m", "clip", "-d", "../mini"), 3, "no file"),
        (("-m", "clip", "-d", "../mini.toml"), 3, "no file"),
        (("-m", "clip", "-d", "mini", "--shard", "3/2"), 2, '"3/2" is not a shard'),
        (("-m", "clip", "-d", "mini", "--precision", "fp8"), 2, "fp8"),
    ],
)
def test_names_that_lead_elsewhere(ovbench, tmp_path, arguments, code, message):
    done = ovbench("eval", *arguments, "--out", tmp_path / "runs")
    assert done.code == code and message in done.err, done.err
    assert left(tmp_path) == []


def test_an_unknown_key_in_a_card(ovbench, tmp_path):
    card = tmp_path / "own.toml"
    card.write_text('title = "Own"\nclases = ["a"]\n')
    done = ovbench("eval", "-m", "clip", "-d", card, "--out", tmp_path / "runs")
    assert done.code == 3 and '"clases"' in done.err and "own.toml" in done.err


def labels_of(image, classes, **decision):
    small = {"short_side": "48", "crop": "48", "stride": "24"}
    pipeline = build_pipeline(resolve("maskclip", "mini", small | decision), (("a",), ("b",)), background=0)
    (words,) = pipeline.predictor.vocabularies
    embeddings = torch.randn(classes, words.embeddings.shape[1], generator=torch.Generator().manual_seed(0))
    words = words._replace(embeddings=F.normalize(embeddings, dim=1), class_index=torch.arange(classes))
    pipeline.predictor.vocabularies = [words]
    return pipeline.label(image)


@pytest.mark.slow
def test_ten_thousand_classes():
    image = np.random.default_rng(0).integers(0, 255, (48, 60, 3), np.uint8)
    labels = labels_of(image, 10_000)
    assert labels.shape == (48, 60) and labels.dtype == np.uint16 and 1 < labels.max() < 10_000
    sure = labels_of(image, 10_000, prob_thd="0.5")
    assert np.all((sure == labels) | (sure == 0)) and (sure == 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (20_000, 40)])
def test_tiny_and_endless_images(size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    assert labels_of(image, 5).shape == size


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "datasets"), ("show", "clip", "voc21"), ("table", "-l", "cass-table1"), ("table", "--list"),
        ("--help",), ("table", "--help"),
    ],
)  # fmt: skip
def test_a_reader_that_has_gone(arguments):
    assert code_without_reader(*arguments) == 141


@pytest.mark.slow
def test_a_reader_that_has_gone_before_a_comparison(ovbench, tmp_path):
    for method in ("clip", "maskclip"):
        assert ovbench("eval", "-m", method, "-d", "mini", "--limit", 2, "--out", tmp_path).code == 0
    assert code_without_reader("compare", *sorted(tmp_path.glob("*.json"))) == 141


def code_without_reader(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "ovbench", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert err == b"", err
    return process.wait(timeout=120)


@pytest.mark.slow
def test_an_image_that_cannot_be_read_fails_alone_in_shared_batches(ovbench, monkeypatch, tmp_path):
    plain = json.loads(ovbench(*evaluate(tmp_path / "plain", "--batch", 8)).out)
    read, refused = decode.read_image_file, open_dataset(load_card("mini")).items[0].image_path

    def refuse_one(path, *more):
        if path == refused:
            raise InputError(f'the image "{path.name}" is empty')
        return read(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr("ovbench.data.dataset.read_image_file", refuse_one)
        done = ovbench(*evaluate(tmp_path, "--batch", 8))
    record = json.loads(done.out)
    assert done.code == 4 and list(record["failed"]) == [refused.stem] and record["dataset"]["images"] == 1
    assert record["device"]["batch"] == plain["device"]["batch"] == 8
    again = json.loads(ovbench(*evaluate(tmp_path, "--batch", 8)).out)
    assert again["counts"] == plain["counts"] and again["failed"] == {}


@pytest.mark.parametrize("kind", ["a file", "another user's", "full", "unlike"])
def test_a_folder_is_made_for_a_process_if_the_cache_cannot_be_used(tmp_path, monkeypatch, caplog, kind):
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    if kind == "a file":
        (tmp_path / "cache" / "generated").write_bytes(b"")
    elif kind == "another user's":
        folder = tmp_path / "cache" / "generated" / "x"
        folder.mkdir(parents=True)
        listdir = os.listdir  # root may read everything
        denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        monkeypatch.setattr(os, "listdir", lambda at: (_ for _ in ()).throw(denied) if at == folder else listdir(at))

    def fill(folder):
        if kind == "full" and folder.is_relative_to(tmp_path / "cache"):
            raise InputError("cannot write the file") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if kind == "unlike":
            raise InputError("no captions")
        (folder / "done").write_bytes(b"")

    warn_once.cache_clear()
    if kind == "unlike":
        with pytest.raises(InputError, match="no captions"):
            cached_folder("generated", "x", fill)
        return
    root = cached_folder("generated", "x", fill)
    assert (root / "done").is_file() and not root.is_relative_to(tmp_path / "cache")
    assert cached_folder("generated", "x", fill) == root and len(caplog.records) == 1


def test_a_cache_of_another_user_is_listed_without_what_cannot_be_read(ovbench, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path))
    for name in ("text/a", "regions/x/b", "weights/c"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"1")
    scandir, hidden = os.scandir, {str(tmp_path / "text"), str(tmp_path / "regions")}

    def denied(path="."):
        if str(path) in hidden:  # root may read everything
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    monkeypatch.setattr(os, "listdir", lambda path: [entry.name for entry in denied(path)])
    warn_once.cache_clear()
    listed = ovbench("cache", "ls", "--json")
    assert listed.code == 0 and {row["name"] for row in listed.json()["parts"]} == {"text", "weights/c"}, listed.out
    assert [record.getMessage().count("cannot be read: Permission denied") for record in caplog.records] == [1, 1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_below_stdout_is_one_sentence(ovbench, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        done = ovbench("list", "methods")
        with contextlib.suppress(OSError):
            full.close()
    assert done.code == 3 and "cannot read or write stdout or another file: No space left" in done.err
