"""Damaged and hostile input of every parser ends in a value or in one sentence; `scripts/fuzz.py` tries more of it."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"
CASES = 12
NAMES = (
    "annotations", "archive-tar", "archive-zip", "bank-images", "bank-index", "bank-note", "bank-rows",
    "bank-store", "baseline", "bundle", "captions", "captions-lines", "captions-table", "card", "case",
    "case-arrays", "checkpoint", "class-colours", "class-list", "class-list-json", "coco-output", "config",
    "descriptions", "image", "image-png", "image-tiff", "label", "label-classes", "label-colours",
    "label-published", "label-table", "label-tiff", "layout", "ledger", "manifest", "mat", "method-file",
    "pascal-detail", "paxray", "prediction-array", "prediction-list", "prediction-masks", "prediction-note",
    "prompts", "psi", "queries", "query-vectors", "record", "reference-features", "reference-lines",
    "reference-set", "reference-table", "reference-tensors", "region-file", "region-map", "rle", "safetensors",
    "shard", "shard-ledger", "similarity", "similarity-toml", "split", "suite", "sweep-beat", "sweep-facts",
    "sweep-lease", "sweep-plan", "sweep-task", "table", "torchscript", "training-checkpoint", "training-features",
)  # fmt: skip


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz"]


@pytest.mark.quick(12)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_input_is_read_or_refused(fuzz, name, tmp_path):
    parser = fuzz.parsers()[name]
    (tmp_path / "whole").mkdir()
    parser.read(parser.example(tmp_path / "whole"))  # what is damaged below is valid
    failed = []
    for seed in range(CASES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        failed.append(fuzz.run_case(name, parser, seed, folder))
    assert not any(failed), [f"seed {seed}: {why}" for seed, why in enumerate(failed) if why]


def test_every_parser_is_tried(fuzz):
    assert tuple(sorted(fuzz.parsers())) == NAMES


def test_the_damage_is_of_many_kinds_and_repeats(fuzz):
    whole = json.dumps({"a": [1, 2, {"b": "text"}], "c": 1.5}).encode()
    made = [fuzz.damaged(whole, random.Random(f"x {seed}")) for seed in range(200)]
    assert made == [fuzz.damaged(whole, random.Random(f"x {seed}")) for seed in range(200)]
    assert len(set(made)) > 150 and sum(one != whole for one in made) > 190


def test_a_parser_that_fails_is_reported(fuzz, tmp_path):
    def broken(path):
        raise KeyError("x")

    text = fuzz.Parser(fuzz.parsers()["class-list"].example, broken)
    assert "KeyError" in fuzz.run_case("class-list", text, 0, tmp_path)
