"""Parts of `ovbench segment`: images of a command line, COCO masks, overlays, confidence, reduced sizes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovbench.data.card import load_card
from ovbench.data.coco_masks import encode_classes
from ovbench.data.image_paths import find_images
from ovbench.data.rle import decode_rle
from ovbench.data.server_layout import class_values, server_layout
from ovbench.inference.overlay import overlay
from ovbench.inference.visualize import palette
from ovbench.utils.errors import InputError


def test_masks_of_all_classes_decode_to_the_label_map():
    rng = np.random.default_rng(0)
    for number in range(60):
        labels = rng.integers(0, rng.integers(1, 5), rng.integers(1, 30, 2)).astype(np.uint16)
        labels = np.repeat(np.repeat(labels, 7, 0), 9, 1) if number % 3 == 0 else labels
        found = encode_classes(labels)
        assert list(found) == np.unique(labels).tolist()
        for value, mask in found.items():
            inside = labels == value
            assert np.array_equal(decode_rle(mask["segmentation"], where=""), inside)
            y, x = np.nonzero(inside)
            assert mask["area"] == len(y)
            assert mask["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]


def names_of(arguments, folder, data=b""):
    found = find_images([str(each) for each in arguments], lambda: data, folder)
    return {str(image.path.relative_to(folder)): image.name for image in found.images}


def test_names_of_outputs_are_unique(tmp_path):
    for name in ("a/x.jpg", "b/x.png", "b/y.v1.png", "b/y.v1.jpg", "b/.hidden.png", "b/notes.txt", "c/[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    assert names_of([tmp_path / "b"], tmp_path) == {"b/x.png": "x", "b/y.v1.jpg": "y.v1.jpg", "b/y.v1.png": "y.v1.png"}
    assert names_of([tmp_path], tmp_path)["a/x.jpg"] == "a/x"
    both = names_of([tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.png"], tmp_path)
    assert both == {"a/x.jpg": "a/x", "b/x.png": "b/x"}
    assert names_of([tmp_path / "*" / "x.*"], tmp_path) == both
    assert names_of([tmp_path / "c" / "[1].png"], tmp_path) == {"c/[1].png": "[1]"}
    listed = f"{tmp_path / 'a' / 'x.jpg'}\0{tmp_path / 'a' / 'x.jpg'}\0".encode()
    assert names_of(["-"], tmp_path, listed) == {"a/x.jpg": "x"}
    with pytest.raises(InputError, match="standard input is empty"):
        names_of(["-"], tmp_path, b"\n")
    with pytest.raises(InputError, match="no image file"):
        names_of(["-"], tmp_path, b"none.jpg\n")


def test_an_overlay_has_the_image_at_its_own_size_and_a_legend():
    image = np.full((300, 700, 3), 100, np.uint8)
    labels = np.zeros((300, 700), np.uint16)
    labels[:, 350:] = 1
    names = ["left", "right", *(f"other {n}" for n in range(18))]
    picture = np.array(overlay(image, labels, names, opacity=0.5))
    assert picture.shape[1] == 700 and picture.shape[0] > 320
    for column, number in ((100, 0), (600, 1)):
        assert np.abs(picture[150, column] - (50 + palette(20)[number] / 2)).max() <= 1
        assert (picture[300:] == palette(20)[number]).all(2).any()  # the legend has the full colour
    assert not (picture[300:] == palette(20)[2]).all(2).any()  # a class without pixels is not listed
    plain = np.array(overlay(image, labels, names, opacity=0, outline=False))
    assert np.array_equal(plain[:300], image)
    assert np.array_equal(np.array(overlay(image, labels, names, unpainted=0))[:300, :340], image[:, :340])


def test_the_legend_names_a_class_without_letters_by_its_number():
    image, labels = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), np.uint16)
    strange, plain, other = (
        np.array(overlay(image, labels, [name, "x"])) for name in ("\U00012000", "class 0", "class 1")
    )
    assert np.array_equal(strange, plain) and not np.array_equal(other, plain)


def test_colours_differ():
    colours = palette(20).astype(int)
    distance = np.abs(colours[:, None] - colours[None]).sum(2) + 999 * np.eye(20)
    assert distance.min() > 60 and palette(3).shape == (3, 3) and palette(0).shape == (0, 3)


def test_values_of_test_servers():
    ade, cities = load_card("ade150"), load_card("cityscapes")
    assert class_values(ade, server_layout(ade).encoding).tolist() == list(range(1, 151))
    assert class_values(cities, server_layout(cities).encoding)[[0, 1, 18]].tolist() == [7, 8, 33]


@pytest.mark.quick(1)
@pytest.mark.parametrize(("method", "refine"), [("maskclip", ""), ("maskclip", "pamr"), ("sclip", "")])
def test_confidence_is_the_probability_of_the_label(method, refine, own_places):
    """The tiles and chunks of the decision give the same as a softmax over the whole maps."""
    import ovbench
    from ovbench.inference.confidence import Confidence
    from ovbench.methods.ops import class_probabilities

    settings = {"short_side": 64, "crop": 0, "refine": refine}
    words = ["sky; clouds", "grass", "road"]
    found = ovbench.load(method, like="mini", words=words, device="cpu", settings=settings).pipeline.predictor
    notes, full = {}, "refined_scores" if refine else "full_scores"

    def note(name, value):
        heard(name, value)
        if name == full:
            notes.setdefault(name, np.zeros(value.size, np.float32))[value.index] = value.values.numpy()

    heard = Confidence(found, scores=True)
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    labels = found.label(image, None, note)[0]
    import torch

    expected = class_probabilities(
        torch.from_numpy(notes[full]), found.vocabularies[0].class_index, found.decisions[0]
    ).numpy()
    assert np.allclose(heard.confidence(), expected.max(0), atol=1e-5)
    assert np.array_equal(labels, expected.argmax(0))
    assert heard.scores().shape[0] == 3


def test_large_images_are_labelled_at_a_reduced_size():
    from types import SimpleNamespace

    from ovbench.inference.label_image import Labeller

    sizes = []

    def label(image, regions, note):
        sizes.append(image.shape[:2])
        return [(image[..., 0] > 127).astype(np.uint16)]

    cell = SimpleNamespace(regions={"source": "slic"}, method="x", protocol=SimpleNamespace(refine=""))
    predictor = SimpleNamespace(maps=None, label=label)
    maps = SimpleNamespace(file=lambda path: None)
    pipeline = SimpleNamespace(
        cell=cell, predictor=predictor, region_maps=maps, regions=lambda image, path: None, method=None
    )
    image = np.zeros((200, 300, 3), np.uint8)
    image[:, 150:] = 255
    found = Labeller(pipeline, ["dark", "light"], megapixels=0.015).label(image, None)
    assert sizes == [(100, 150)] and found.labels.shape == (200, 300)
    assert (found.labels[:, 150:] == 1).all() and not found.labels[:, :150].any()
