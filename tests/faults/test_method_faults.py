"""Mistakes in a method's own code: they cost an image or a cell, and the message says where the mistake is."""

import cv2
import numpy as np
import pytest

METHOD = """
import sys
import torch
from ovbench.methods.clip import CLIP

class Mine(CLIP):
    windowwise = True
    pixelwise = False

    def encode(self, batch):
        features = super().encode(batch)
        return self.encode_wrongly(features) if (batch.windows[:, 0].flatten(1).std(1) < 1e-6).any() else features

    def encode_wrongly(self, features):
        HERE
"""
RAISES = {
    'raise ValueError("boom")': "ValueError: boom",
    'return {}["key"]': "KeyError: 'key'",
    "return [][1]": "IndexError: list index out of range",
    "raise MemoryError": "MemoryError",
    "sys.exit(0)": "SystemExit: 0",
    "assert False": "AssertionError",
    "return features.tokens @ features.tokens": "RuntimeError",
}
RETURNS = {
    "return None": "Mine.encode returned None, expected PatchFeatures",
    "return features.tokens.numpy()": "Mine.encode returned a NumPy array of float32 of shape (",
    "return features._replace(tokens=features.tokens.numpy())": "expected a floating-point tensor of shape (",
    "return features._replace(tokens=features.tokens.int())": "a tensor of int32 of shape (",
    "return features._replace(tokens=features.tokens[:, 1:])": "expected a floating-point tensor of shape (",
    "return features._replace(grid=None)": "returned the grid None, expected (gh, gw)",
}
OTHERS = {  # a function of the method, what it does wrongly, and what the message says
    "score": ("super().score(features, queries).numpy()", "Mine.score returned a NumPy array of float32"),
    "window_scores": ("scores", "Mine.window_scores returned a tensor of float32 of shape ("),
    "probabilities": ("scores[:, 1:]", "expected a floating-point tensor of shape (any, 48, 64)"),
    "refine_labels": ("labels.float()", "expected an integer tensor of shape (48, 64)"),
    "map_queries": ("{}[0]", "Mine failed: KeyError: 0"),
    "__init__": ("sys.exit(3)", "Mine failed: SystemExit: 3"),
}
SIGNATURES = {
    "score": "features, queries", "window_scores": "scores, size, pad", "probabilities": "scores, queries, decision",
    "refine_labels": "labels, regions", "map_queries": "queries", "__init__": "backbones, params",
}  # fmt: skip


@pytest.fixture
def run(ovbench, tmp_path):
    """Evaluate a method of this text, and CLIP, on three images of which the second has one colour."""
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        image = random.integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), np.full_like(image, 90) if number == 1 else image)
        cv2.imwrite(str(tmp_path / f"labels/{number}.png"), random.integers(0, 3, (48, 64), np.uint8))
    (tmp_path / "classes.txt").write_text("dog\ngrass\nsky\n")
    layout = '[[layout]]\nimage = "images/{id}.png"\nlabel = "labels/{id}.png"\n'
    (tmp_path / "three.toml").write_text(f'title = "three"\nclasses = "classes.txt"\n{layout}')

    def evaluate(text, *arguments, others=("-m", "clip")):
        (tmp_path / "mine.py").write_text(text)
        settings = [f"--set={setting}" for setting in ("short_side=48", "crop=48", "stride=48", "pad=0")]
        return ovbench(
            "eval", "-m", f"{tmp_path}/mine.py:Mine", *others, "-d", tmp_path / "three.toml", "--data-root", tmp_path,
            "--weights", "clip=mini", *settings, "--json", "--out", tmp_path / "runs", *arguments,
        )  # fmt: skip

    return evaluate


def line_of(text, part):
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


LINES = [*((line, 0) for line in (*RAISES, *RETURNS)), ("sys.exit(0)", 8), ("return None", 8)]
FAST = (next(iter(RAISES)), next(iter(RETURNS)))


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("line", "batch"), [pytest.param(*pair, marks=[] if pair[0] in FAST else [pytest.mark.slow]) for pair in LINES]
)
def test_an_image_that_the_method_cannot_do_fails_by_itself(run, tmp_path, line, batch):
    text = METHOD.replace("HERE", line)
    done = run(text, "--batch", batch)
    assert done.code == 4 and "defect" not in done.err, done.err
    mine, other = done.json()
    assert list(mine["failed"]) == ["1"] and mine["status"] == "partial" and mine["dataset"]["images"] == 2
    assert other["status"] == "complete" and not other["failed"]
    number = line_of(text, line) if line in RAISES else line_of(text, "def encode(")
    assert {**RAISES, **RETURNS}[line] in mine["failed"]["1"]
    assert f"({tmp_path}/mine.py, line {number})" in mine["failed"]["1"]
    assert f"failed: 1: {mine['failed']['1']}" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("function", OTHERS)
def test_every_function_of_a_method_is_held_to_what_it_returns(run, tmp_path, function):
    wrong, words = OTHERS[function]
    text = METHOD.replace("HERE", "return features") + (
        f"    def {function}(self, {SIGNATURES[function]}):\n        return {wrong}\n"
    )
    done = run(text)
    assert done.code == 4 and words in done.err and f"{tmp_path}/mine.py, line " in done.err, done.err
    assert "defect" not in done.err
    records = done.json() if isinstance(done.json(), list) else [done.json()]
    assert records[-1]["cell"]["method"] == "clip" and records[-1]["status"] == "complete"


@pytest.mark.slow
def test_fail_fast_stops_at_the_mistake(run, tmp_path):
    done = run(METHOD.replace("HERE", 'raise ValueError("boom")'), "--fail-fast")
    assert done.code == 4 and "error: Mine failed: ValueError: boom (1, " in done.err
    assert "record:" not in done.err and not list((tmp_path / "runs").glob("clip*"))


def test_a_method_that_cannot_be_built_and_no_other(run):
    text = METHOD + "    def __init__(self, backbones, params):\n        raise OSError('no such file')\n"
    done = run(text, others=())
    assert done.code == 4 and "error: Mine failed: OSError: no such file (" in done.err and done.out == ""


@pytest.mark.slow
def test_labels_that_are_no_classes(run):
    text = METHOD.replace("HERE", "return features")
    done = run(text + "    def refine_labels(self, labels, regions):\n        return labels + 1000\n")
    assert done.code == 4 and "expected 0 to 2" in done.err


def test_a_mistake_in_a_built_in_method_costs_the_image(run, monkeypatch):
    from ovbench.methods.clip import CLIP

    encode, calls = CLIP.encode, []

    def third(self, batch):
        calls.append(1)
        return encode(self, batch) if len(calls) != 3 else batch.windows.no_such_attribute

    monkeypatch.setattr(CLIP, "encode", third)
    done = run(METHOD.replace("HERE", "return features"), others=())
    assert done.code == 4 and "AttributeError" in done.err and "defect" not in done.err


@pytest.mark.slow
def test_a_region_source_that_raises_costs_the_image(ovbench, monkeypatch, tmp_path):
    from ovbench.regions.slic import Slic

    monkeypatch.setattr(Slic, "start", lambda self, device: lambda image, stem: {}["no"])
    settings = "--set", "regions=slic", "--set", "regions.segments=37"  # of which no other test has left maps
    done = ovbench("eval", "-m", "corrclip", "-d", "mini", *settings, "--limit", 1, "--out", tmp_path)
    assert done.code == 4 and "Slic failed: KeyError: 'no'" in done.err and "defect" not in done.err, done.err
