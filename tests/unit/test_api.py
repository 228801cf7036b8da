"""The Python API gives what the command line gives, loads networks once, and refuses what it would misread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import ovbench as package
from ovbench.api import as_pixels
from ovbench.inference import pipeline
from ovbench.utils.errors import InputError, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def segment():
    return package.load("clip", "mini", ["sky; clouds", ["grass", "lawn"]], device="cpu", settings={"short_side": 64})


def test_array_picture_and_tensor_are_one_image(segment):
    expected = segment(PIXELS)
    assert expected.shape == (24, 30) and expected.dtype == np.uint16
    for image in (Image.fromarray(PIXELS), torch.tensor(PIXELS), torch.tensor(PIXELS).permute(2, 0, 1)):
        assert np.array_equal(segment(image), expected)


def test_a_picture_is_turned_upright_as_its_file_would_be():
    picture = Image.fromarray(PIXELS)
    picture.getexif()[274] = 6
    assert as_pixels(picture).shape == (30, 24, 3)


@pytest.mark.parametrize(
    "image",
    [
        PIXELS / 255,
        PIXELS[..., 0],
        PIXELS[None],
        PIXELS[:0],
        torch.rand(3, 8, 8),
        Image.new("I;16", (4, 4)),
        "photo.jpg",
    ],
)
def test_what_is_no_image_of_bytes_is_refused(image):
    with pytest.raises(InputError, match="image of"):
        as_pixels(image)


def test_new_words_load_no_network(segment, monkeypatch):
    monkeypatch.setattr(pipeline, "load_backbone", lambda *_: pytest.fail("loaded again"))
    before = segment.pipeline
    segment.set_words(["water", "road", "sand"], background="road")
    assert segment.classes == ("water", "road", "sand") and segment.pipeline is before
    assert segment.pipeline.predictor.vocabularies[0].background == 1 and segment(PIXELS).max() < 3


@pytest.mark.parametrize("words", ["dog", [], ["dog", " ; "], [[]], ["dog", "Dog"], [3], [b"dog"], [("dog", 4)]])
def test_words_that_are_no_list_of_names_are_refused(segment, words):
    with pytest.raises((UsageError, InputError)):
        segment.set_words(words)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "clipp"}, '"clip"'),
        ({"like": "minni"}, '"mini"'),
        ({"settings": {"short_sid": 3}}, '"short_side"'),
        ({"settings": {"short_side": "many"}}, "short_side"),
        ({"precision": "fp8"}, "fp32"),
        ({"background": "sky"}, "background"),
        ({"words": ["sky"], "background": "skyy"}, '"sky"'),
    ],
)
def test_wrong_arguments_are_named(arguments, says):
    with pytest.raises(UsageError, match=says):
        package.load(**{"method": "clip", "like": "mini", "device": "cpu", **arguments})


def test_evaluate_refuses_an_unknown_option():
    with pytest.raises(UsageError, match='"limit"'):
        package.evaluate("clip", "mini", limt=3)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"limit": 0}, '"limit" must be a number of 1 or more, got 0'),
        ({"limit": "all"}, "\"limit\" must be a whole number, got 'all'"),
        ({"batch": -8}, '"batch" must be a number of 0 or more, got -8'),
        ({"precision": "fp8"}, '"precision" must be "fp32", "fp16" or "bf16"'),
        ({"label_rule": "oficial"}, '"label_rule" must be "correct" or "official"'),
        ({"save_predictions": "gif"}, '"save_predictions" must be "png"'),
        ({"fresh": "no"}, '"fresh" must be true or false'),
    ],
)
def test_evaluate_refuses_a_wrong_value_of_an_option_before_the_run(option, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        package.evaluate("clip", "mini", out=tmp_path / "runs", **{"device": "cpu", **option})
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_evaluate_gives_the_record_of_the_command(ovbench, tmp_path):
    done = package.evaluate("naclip", "mini", limit=1, out=tmp_path, settings={"pamr_dilations": [8]}, device="cpu")
    command = ("-m", "naclip", "-d", "mini", "--limit", 1, "--set", "pamr_dilations=8", "--device", "cpu", "--json")
    printed = ovbench("eval", *command, "--out", tmp_path / "other")
    assert printed.code == 0, printed.err
    assert printed.json()["counts"] == done[0]["counts"]
    table = package.records(tmp_path)
    assert list(table.path) == [str(done.paths[0]), *(str(p) for p in (tmp_path / "other").glob("*.json"))]
    assert table.mIoU.tolist() == [done[0]["metrics"]["mIoU"]] * 2 and set(table.status) == {"complete"}
