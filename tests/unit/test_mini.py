"""The `mini` world: same bytes everywhere, held-out things never in training, files written whole, true captions."""

from __future__ import annotations

import hashlib
import json
import multiprocessing

import numpy as np
import pytest

from ovbench.data.mini import captions, drawing, world, write
from ovbench.data.mini.stream import Stream, hashed

VALIDATION_SHA256 = "dca8e5f1b8537244a4cbcb5c9233e2b1e686e53106b38f6277e95fb451113736"
FROZEN_BITS = [13309476754707697221, 11984929618412882174]
FROZEN_HASHES = [0.7120691949967295, 0.5504858829081059]


def decoded(path):
    from PIL import Image

    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_validation_split_is_the_same_to_the_byte():
    digest = hashlib.sha256()
    for i in range(write.VALIDATION_IMAGES):
        for array in drawing.validation_drawing(i):
            digest.update(repr(array.shape).encode())
            digest.update(array.tobytes())
    assert digest.hexdigest() == VALIDATION_SHA256


def test_random_numbers_are_frozen():
    stream = Stream(7)
    assert [stream.bits() for _ in range(2)] == FROZEN_BITS
    assert hashed(np.array([-1, 3]), np.array([5, 1 << 40]), 9).tolist() == FROZEN_HASHES


@pytest.mark.slow
def test_every_class_is_seen_and_labels_are_in_range(drawn_mini):
    pairs = zip(*(sorted(drawn_mini.glob(f"{kind}/val/*.png")) for kind in ("images", "labels")), strict=True)
    images = [(decoded(image), decoded(label)) for image, label in pairs]
    assert len(images) == write.VALIDATION_IMAGES
    assert all(image.shape[:2] == label.shape for image, label in images)
    assert all(200 <= side <= 400 for _, label in images for side in label.shape)
    seen = np.sum([np.bincount(label.ravel(), minlength=256) > 0 for _, label in images], axis=0)
    assert set(np.flatnonzero(seen)) == {*range(28), world.IGNORE}
    assert seen[:28].min() >= 10


def test_rim_lies_between_regions_only():
    drawn = drawing.draw(Stream(1), world.VALIDATION_THINGS)
    label = drawing.validation_label(drawn)
    r = np.pad(drawn.regions.astype(int), 1, mode="edge")
    centre = r[1:-1, 1:-1]
    differs = (r[:-2, 1:-1] != centre) | (r[1:-1, :-2] != centre)
    assert (label == world.IGNORE).any()
    assert not (label == world.IGNORE)[~differs].any()


def test_classes_are_distinct_and_things_differ_in_colour_and_pattern():
    classes = world.classes()
    assert len(classes) == 28 >= 24
    names = [name for names in classes for name in names]
    assert len(set(names)) == len(names)
    assert all(len(names) >= 2 for names in classes)
    assert len({(c, p) for c, p, _ in world.THINGS}) == len(world.THINGS)


@pytest.mark.slow
def test_held_out_things_are_unseen_but_their_parts_are_not():
    assert len(world.held_out_classes()) >= 4
    seen = {world.thing(n) for n in world.TRAINING_THINGS}
    for colour, pattern, shape in world.THINGS:
        if world.in_training(colour, pattern, shape):
            continue
        assert (colour, pattern, shape) not in seen
        assert {colour, pattern, shape} <= {part for thing in seen for part in thing}
    drawn = {int(n) for seed in range(60) for n in np.unique(drawing.training_drawing(seed).entities)}
    assert drawn <= {*range(12), *world.TRAINING_THINGS}


def test_entity_numbers_round_trip():
    for number in (*world.TRAINING_THINGS, *world.VALIDATION_THINGS):
        assert world.entity(*world.thing(number)) == number


@pytest.mark.slow
def test_captions_are_true_of_their_image_and_name_nothing_held_out():
    implied, stream = captions.implied(), Stream(3)
    held_out = {name for t in world.THINGS if not world.in_training(*t) for name in world.thing_names(*t)}
    for seed in range(20):
        shares = captions.entity_fractions(drawing.training_drawing(seed).entities)
        present = implied[shares > 0].any(axis=0)
        for _ in range(20):
            caption = captions.describe(shares, stream)
            assert present[list(caption.concepts)].all(), caption
            assert not any(name in caption.text for name in held_out)


def test_written_validation_decodes_to_the_drawn_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "VALIDATION_IMAGES", 3)
    write.write_validation(tmp_path / "mini")
    for i in range(3):
        image, label = drawing.validation_drawing(i)
        assert np.array_equal(decoded(tmp_path / f"mini/images/val/mini_{i:04d}.png"), image)
        assert np.array_equal(decoded(tmp_path / f"mini/labels/val/mini_{i:04d}.png"), label)
    assert [p.name for p in tmp_path.iterdir()] == ["mini"]


@pytest.mark.slow
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "_save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write.write_validation(tmp_path / "mini")
    assert not list(tmp_path.iterdir())


def _write(root):
    write.VALIDATION_IMAGES = 4
    write.write_validation(root)


@pytest.mark.slow
def test_two_writers_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path / "mini",)) for _ in range(2)]
    for w in writers:
        w.start()
    for w in writers:
        w.join()
    assert [w.exitcode for w in writers] == [0, 0]
    assert len(list((tmp_path / "mini/images/val").iterdir())) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["mini"]


def test_training_images_and_captions(tmp_path):
    write.write_training(tmp_path / "train", 2, seed=40)
    document = json.loads((tmp_path / "train/captions_train.json").read_text())
    assert len(document["images"]) == 2 and len(document["annotations"]) == 10
    for entry in document["images"]:
        image = decoded(tmp_path / "train/images/train" / entry["file_name"])
        assert image.shape == (entry["height"], entry["width"], 3)
    with pytest.raises(FileExistsError):
        write.write_training(tmp_path / "train", 2)


@pytest.mark.slow
def test_close_looks_at_training_drawings(tmp_path):
    write.write_training(tmp_path / "train", 6, seed=40, cut=48, cuts=3)
    document = json.loads((tmp_path / "train/captions_train.json").read_text())
    assert len(document["annotations"]) == 30
    for number, entry in enumerate(document["images"]):
        cut = decoded(tmp_path / "train/images/train" / entry["file_name"])
        whole = drawing.training_drawing(40 + number // 3).image
        side = 48 * min(whole.shape[:2]) // 224
        assert cut.shape == (side, side, 3)
        places = np.lib.stride_tricks.sliding_window_view(whole, cut.shape)[:, :, 0]
        rows, columns = np.nonzero((places[:, :, 0, 0] == cut[0, 0]).all(-1))
        assert any((places[y, x] == cut).all() for y, x in zip(rows, columns, strict=True))
