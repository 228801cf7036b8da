"""GLA-CLIP against the whole matrix in NumPy, in blocks of any size, for every base."""

import numpy as np
import pytest
import torch
from towers import small_towers

from ovbench.config.load import Protocol
from ovbench.inference.batching import WindowBatcher
from ovbench.inference.predictor import Predictor
from ovbench.methods import glaclip
from ovbench.methods.base import Backbones, Queries, no_note
from ovbench.methods.glaclip import GLACLIP
from ovbench.methods.tower_params import GLA_BASES, GLACLIPParams
from ovbench.parity.recorder import Recorder
from ovbench.utils.errors import UsageError

IMAGE = np.random.default_rng(0).integers(0, 255, (130, 170, 3), np.uint8)
EMBEDDINGS = torch.randn(4, 12, generator=torch.Generator().manual_seed(5))
QUERIES = Queries(torch.nn.functional.normalize(EMBEDDINGS, dim=-1), torch.arange(4))
PROTOCOL = Protocol(short_side=0, crop=64, stride=40)


@pytest.fixture(scope="module")
def towers():
    return Backbones(**{name: tower.float() for name, tower in small_towers().items() if name in ("clip", "dino")})


def whole_matrix(keys, values, windows, p):
    """Return the mixed values of all rows from N x N matrices, written after the text of the method."""
    s = keys @ keys.T
    for _ in range(p.rounds):
        member = s > p.threshold
        size = member.sum(1, keepdims=True)
        proxy = member @ keys / (size + 1e-6)
        proxy /= np.linalg.norm(proxy, axis=1, keepdims=True)
        s = proxy @ keys.T
    beta = 1 + p.beta_alpha * np.log(1 + windows)
    z = (s - beta * np.maximum(s.mean(1, keepdims=True), 0)) * (1 + p.gamma_alpha / size)
    z[z < np.minimum(z.max(1, keepdims=True), 0)] = -np.inf
    weights = np.exp(z - z.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ values


@pytest.mark.parametrize("spread", [3.0, 0.3])  # different patches, and an even image with rows entirely below 0
def test_rows_are_those_of_the_whole_matrix(towers, spread):
    generator = np.random.default_rng(1)
    keys = generator.normal(size=(60, 5)) + generator.normal(size=5) * 3 / spread
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    values, method = generator.normal(size=(60, 8)), GLACLIP(towers, GLACLIPParams())
    expected = whole_matrix(keys, values, 6, method.params)
    given = [torch.from_numpy(array) for array in (keys, values)]
    for step in (60, 7):
        blocks = [method.attend(own, *given, 6, no_note) for own in torch.arange(60).split(step)]
        np.testing.assert_allclose(torch.cat(blocks), expected, atol=1e-12)
    notes = Recorder()
    method.attend(torch.arange(60), *given, 6, notes)
    below = notes.once("scaled").amax(1) < 0
    assert bool(below.any()) == (spread < 1)
    assert (notes.once("attention")[below].amax(1) == 1).all()  # such a row keeps its largest entry alone


def test_a_patch_without_a_set_is_its_own(towers):
    keys = torch.eye(3) * (1 - 1e-7)
    method = GLACLIP(towers, GLACLIPParams(threshold=0.9999999))
    mixed = method.attend(torch.arange(3), keys, torch.eye(3), 1, no_note)
    assert mixed.isfinite().all() and torch.equal(mixed.argmax(1), torch.arange(3))


@pytest.mark.slow
@pytest.mark.parametrize("base", GLA_BASES)
def test_labels_do_not_depend_on_blocks_batches_or_other_images(towers, monkeypatch, base):
    predictor = Predictor(GLACLIP(towers, GLACLIPParams(base)), PROTOCOL, [QUERIES])
    expected = predictor.label(IMAGE)[0]
    assert len(np.unique(expected)) > 1
    images = [IMAGE[:64], IMAGE, IMAGE[:, :64], IMAGE[:100, :100]]
    together = WindowBatcher(predictor, 8)
    found = [one for number, image in enumerate(images) for one in together.add(number, image)] + [*together.flush()]
    (labels,) = (one.labels[0] for one in found if one.number == 1)
    assert np.mean(labels == expected) > 0.999
    monkeypatch.setattr(glaclip, "BLOCK", 500)
    assert np.mean(predictor.label(IMAGE)[0] == expected) > 0.999


@pytest.mark.slow
def test_the_largest_block_bounds_the_similarities(towers, monkeypatch):
    monkeypatch.setattr(glaclip, "BLOCK", 1000)
    notes = Recorder()
    Predictor(GLACLIP(towers), PROTOCOL, [QUERIES]).label_resized(IMAGE, IMAGE.shape[:2], note=notes)
    blocks = notes.notes["similarity"]
    assert len(blocks) > 1 and all(block.numel() <= max(1000, block.shape[1]) for block in blocks)
    assert sum(map(len, blocks)) == blocks[0].shape[1] == 12 * blocks[0].shape[1] // 12


def test_windows_see_each_other(towers):
    """The features of a window change with another window; ProxyCLIP's would not."""
    changed = IMAGE.copy()
    changed[90:, 110:] = 255 - changed[90:, 110:]
    first = []
    for image in (IMAGE, changed):
        notes = Recorder()
        Predictor(GLACLIP(towers), PROTOCOL, [QUERIES]).label_resized(image, image.shape[:2], note=notes)
        first.append((notes.window("values", 0), notes.once("joined").tokens[0]))
    assert torch.equal(first[0][0], first[1][0]) and not torch.allclose(first[0][1], first[1][1], atol=1e-5)


@pytest.mark.parametrize("wrong", [{"threshold": 1.0}, {"threshold": 0.0}, {"rounds": 0}, {"base": "naclip"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        GLACLIPParams(**wrong)
