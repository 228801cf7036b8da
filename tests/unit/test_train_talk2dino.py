"""Training psi: the loss, the order of batches, exact resumption, the feature pass."""

import dataclasses
import math
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch.nn.functional import normalize

from ovbench.backbones.dinov2 import Dinov2Vision
from ovbench.training.talk2dino import features as feature_pass
from ovbench.training.talk2dino.captioned_images import CaptionedImages
from ovbench.training.talk2dino.contrast import false_negatives, info_nce, select_heads
from ovbench.training.talk2dino.features import FeatureTable, compute_images, missing_files, plan_images
from ovbench.training.talk2dino.loop import (
    Checkpoint,
    EpochSampler,
    PairBatch,
    TrainingData,
    new_training,
    take_step,
    train,
)
from ovbench.training.talk2dino.loss_plot import loss_curve
from ovbench.training.talk2dino.recipe import Recipe, load_recipe
from ovbench.utils.errors import InputError, UsageError

RECIPE = Recipe(epochs=3, batch=8, lr=1e-2, schedule="cosine", temperature="learned", false_negatives="masked")


class Table:
    """Rows in memory."""

    def __init__(self, rows):
        self.rows, self.shape = rows, tuple(rows.shape[1:])

    def __getitem__(self, numbers):
        return self.rows[numbers]


def features(pairs=21, images=7):
    generator = torch.Generator().manual_seed(0)
    return TrainingData(
        Table(torch.randn(images, 2, 6, generator=generator)),
        Table(torch.randn(pairs, 5, generator=generator)),
        torch.arange(pairs) % images,
        torch.arange(pairs) % 11,
    )


def test_the_head_is_chosen_by_the_own_caption_alone():
    text = torch.eye(3)
    images = torch.stack([text.roll(1, 0), 5 * text], 1)  # head 1 fits, whatever its length
    chosen = select_heads(text, images)
    assert chosen.heads.tolist() == [1, 1, 1]
    torch.testing.assert_close(chosen.vectors, text)


def test_loss_against_the_sum_written_out():
    torch.manual_seed(0)
    s = normalize(torch.randn(4, 6), dim=-1) @ normalize(torch.randn(4, 6), dim=-1).T
    k = 1 / 0.07
    rows = [-math.log(math.exp(k * s[i, i]) / sum(math.exp(k * s[i, j]) for j in range(4))) for i in range(4)]
    columns = [-math.log(math.exp(k * s[i, i]) / sum(math.exp(k * s[j, i]) for j in range(4))) for i in range(4)]
    assert float(info_nce(s, k)) == pytest.approx((sum(rows) + sum(columns)) / 8, rel=1e-5)


def test_pairs_of_one_image_or_of_equal_words_can_be_left_out():
    ignored = false_negatives(torch.tensor([0, 0, 1, 2]), torch.tensor([5, 6, 7, 5]))
    assert ignored.nonzero().tolist() == [[0, 1], [0, 3], [1, 0], [3, 0]]
    alike = torch.ones(4, 4)
    assert float(info_nce(alike, 1.0, ignored=ignored)) < float(info_nce(alike, 1.0))


def test_the_divisor_is_the_squared_number_of_pairs():
    recipe, data = Recipe(epochs=1), features()
    batch = PairBatch(data.images[data.image_of], data.texts[torch.arange(21)], torch.arange(21))
    training = new_training(recipe, 5, 6, 1)
    loss = take_step(training, batch, recipe, data)
    assert loss * 21**2 == pytest.approx(training.losses[0])


def test_order_covers_every_pair_once_an_epoch_and_goes_on_anywhere():
    batches = list(EpochSampler(21, RECIPE))
    assert len(batches) == len(EpochSampler(21, RECIPE)) == 9
    for epoch in range(3):
        assert sorted(chain.from_iterable(batches[3 * epoch : 3 * epoch + 3])) == list(range(21))
    assert batches[:3] != batches[3:6]
    for done in range(10):
        assert list(EpochSampler(21, RECIPE, done)) == batches[done:]


class Stop(Exception):
    pass


@pytest.mark.quick(1)
@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(stop, tmp_path, monkeypatch):
    monkeypatch.setattr("ovbench.training.talk2dino.loop.STEPS_PER_CHECKPOINT", 4)
    data = features()
    whole = train(data, RECIPE, Checkpoint(tmp_path / "a.pt", {"data": "x"}))

    def kill(training):
        if training.step == stop:
            raise Stop

    checkpoint = Checkpoint(tmp_path / "b.pt", {"data": "x"})
    with pytest.raises(Stop):
        train(data, RECIPE, checkpoint, advance=kill)
    again = train(data, RECIPE, checkpoint)
    assert again.losses == whole.losses and again.scale.item() == whole.scale.item() != math.log(1 / 0.07)
    for name, tensor in whole.psi.state_dict().items():
        assert torch.equal(again.psi.state_dict()[name], tensor), name
    assert train(data, RECIPE, checkpoint).step == 9  # nothing left to do


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path, data = tmp_path / "c.pt", features()
    train(data, RECIPE, Checkpoint(path, {"data": "x", "lr": 1}))
    with pytest.raises(InputError, match=r"of another training: lr 1, now 2.*--fresh"):
        train(data, RECIPE, Checkpoint(path, {"data": "x", "lr": 2}))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="checkpoint is damaged"):
        train(data, RECIPE, Checkpoint(path, {"data": "x", "lr": 1}))


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    data = features()
    data.texts.rows[3] = math.nan
    with pytest.raises(InputError, match="the loss is nan"):
        train(data, RECIPE, Checkpoint(tmp_path / "c.pt", {}))
    assert not (tmp_path / "c.pt").exists()


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Five images, three files of the feature pass, and a tower."""
    monkeypatch.setattr(feature_pass, "IMAGES_PER_FILE", 2)
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for number in range(5):
        pixels = generator.integers(0, 256, (20, 24 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=2, num_classes=0)
    pairs = CaptionedImages(tmp_path, tuple(f"{n}.png" for n in range(5)), ("a",) * 5, tuple(range(5)))
    return pairs, Dinov2Vision(vit)


def test_an_interrupted_feature_pass_goes_on(images):
    pairs, tower = images
    files = plan_images(pairs, "tower", 16, 0.125)
    assert len(files) == len(missing_files(files)) == 3

    def stop(count):
        if len(missing_files(files)) == 2:
            raise Stop

    with pytest.raises(Stop):
        compute_images(pairs, missing_files(files), tower, 16, 0.125, advance=stop)
    assert len(missing_files(files)) == 2
    done = []
    compute_images(pairs, missing_files(files), tower, 16, 0.125, advance=done.append)
    assert sum(done) == 3 and not missing_files(files)
    rows = FeatureTable(files)
    assert rows[torch.tensor([4, 0, 3])].shape == (3, 2, 12) and len(set(rows.sha256())) == 5
    before = rows[torch.arange(5)].clone()
    for file in files:
        file.path.unlink()
    compute_images(pairs, files, tower, 16, 0.125)
    assert torch.equal(FeatureTable(files)[torch.arange(5)], before)


def test_files_are_computed_again_where_damaged_or_where_an_image_changed(images):
    pairs, tower = images
    files = plan_images(pairs, "tower", 16, 0.125)
    compute_images(pairs, files, tower, 16, 0.125)
    files[1].path.write_bytes(b"\0" * 20)
    assert missing_files(files) == [files[1]]
    Image.new("RGB", (30, 30)).save(pairs.folder / "4.png")
    changed = plan_images(pairs, "tower", 16, 0.125)
    assert changed[:2] == files[:2] and changed[2].path != files[2].path
    assert plan_images(pairs, "tower", 24, 0.125)[0].path != files[0].path


def test_an_image_that_cannot_be_read_is_named(images):
    pairs, tower = images
    path = pairs.folder / "2.png"
    path.write_bytes(path.read_bytes()[:300])
    files = plan_images(pairs, "tower", 16, 0.125)
    with pytest.raises(InputError, match=r"2\.png"):
        compute_images(pairs, files, tower, 16, 0.125)
    assert len(missing_files(files)) == 2  # what was done before stays


def test_recipes():
    recipe, backbones = load_recipe("paper")
    assert recipe == Recipe() and backbones["clip"] == "ViT-B-16-quickgelu/openai"
    changed, _ = load_recipe("paper", {"epochs": "2", "text": "unit"})
    assert changed == dataclasses.replace(recipe, epochs=2, text="unit")
    for settings, message in (
        ({"epoch": "2"}, 'did you mean "epochs"'),
        ({"text": "row"}, '"row" is not a value of "text"'),
        ({"batch": "0"}, "give a number above 0"),
        ({"lr": "fast"}, 'not a value of "lr"'),
    ):
        with pytest.raises(UsageError, match=message):
            load_recipe("paper", settings)
    with pytest.raises(UsageError, match='unknown recipe "papr"'):
        load_recipe("papr")


@pytest.mark.slow
def test_the_loss_curve_is_a_picture():
    assert loss_curve([3.0, 2.0, 2.5, 1.0], [2.5, 1.75]).startswith(b"\x89PNG")
