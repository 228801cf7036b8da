"""The labeller's forms agree: with and without a listener, in large and small batches, with and without memory."""

import numpy as np
import pytest
import torch
from towers import small_towers

from ovbench.config import Protocol
from ovbench.engine import labeller as labeller_module
from ovbench.engine import reduce
from ovbench.engine.labeller import Labeller
from ovbench.errors import ScoreError
from ovbench.methods.base import Queries
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.sclip import SCLIP, SCLIPParams

IMAGE = np.random.default_rng(0).integers(0, 255, (130, 170, 3), np.uint8)
EMBEDDINGS = torch.randn(7, 12, generator=torch.Generator().manual_seed(5))
QUERIES = Queries(torch.nn.functional.normalize(EMBEDDINGS, dim=-1), torch.tensor([0, 0, 1, 2, 2, 2, 3]))


class Halves(MaskCLIP):
    """A method with probabilities of its own."""

    def probabilities(self, scores, queries, decision):
        return super().probabilities(scores, queries, decision).sqrt()


@pytest.fixture(scope="module")
def towers():
    return small_towers().__class__(*(None if t is None else t.float() for t in small_towers()))


def label(method, protocol, **settings):
    labeller = Labeller(method, protocol, [QUERIES])
    for name, value in settings.items():
        setattr(labeller, name, value)
    return labeller.label_resized(IMAGE, (300, 260))[0]


@pytest.mark.parametrize("make", [MaskCLIP, Halves, lambda t: SCLIP(t, SCLIPParams(area_thd=0.2))])
@pytest.mark.parametrize(
    "protocol", [Protocol(crop=64, stride=40), Protocol(crop=0), Protocol(crop=64, stride=40, prob_thd=0.3)]
)
def test_a_listener_changes_no_label(towers, monkeypatch, make, protocol):
    monkeypatch.setattr(reduce, "TILE_CPU", 1 << 10)
    monkeypatch.setattr(labeller_module, "CHUNK_CPU", 1)  # one query at a time
    method, notes = make(towers), {}
    heard = Labeller(method, protocol, [QUERIES]).label_resized(IMAGE, (300, 260), note=notes.__setitem__)[0]
    assert {"full_scores", "probabilities", "labels_raw"} <= set(notes)
    assert np.array_equal(heard, label(method, protocol)) and len(np.unique(heard)) > 1


def test_no_map_of_all_queries_exists_at_full_size(towers, monkeypatch):
    sizes = []
    monkeypatch.setattr(reduce, "TILE_CPU", 1 << 10)
    decide = reduce.decide_queries
    monkeypatch.setattr(labeller_module, "decide_queries", lambda s, *more: sizes.append(s.numel()) or decide(s, *more))
    label(MaskCLIP(towers), Protocol(crop=64, stride=40))
    assert max(sizes) <= 7 * 8 * 64 and sum(sizes) == 7 * 300 * 260


class LittleMemory(MaskCLIP):
    """Runs out of memory with more than ``room`` windows."""

    room = 3

    def encode(self, batch):
        if len(batch.windows) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().encode(batch)


def test_out_of_memory_halves_the_windows_once_for_all(towers, capsys):
    protocol = Protocol(crop=64, stride=40)
    expected = label(MaskCLIP(towers), protocol)
    labeller = Labeller(LittleMemory(towers), protocol, [QUERIES])
    for _ in range(2):
        assert np.array_equal(labeller.label_resized(IMAGE, (300, 260))[0], expected)
    assert labeller.windows_at_once == 3
    assert capsys.readouterr().err == "out of memory on cpu: going on with fewer windows at once\n"


def test_out_of_memory_with_one_window_fails_the_image(towers):
    method = LittleMemory(towers)
    method.room = 0
    with pytest.raises(ScoreError, match="too little memory for one window; choose another --device"):
        label(method, Protocol(crop=64, stride=40))
