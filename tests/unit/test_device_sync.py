"""On a GPU the host runs ahead: until an image is decided it neither asks for a value nor uploads a constant again."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from towers import small_towers

from ovbench.config.load import Protocol
from ovbench.inference.batching import WindowBatcher
from ovbench.inference.device_labels import DeviceLabels
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Queries
from ovbench.methods.clearclip import ClearCLIP
from ovbench.methods.clip import CLIP
from ovbench.methods.dihclip import DiHCLIP
from ovbench.methods.gem import GEM
from ovbench.methods.lposs import LPOSS
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.naclip import NACLIP
from ovbench.methods.params import DiHCLIPParams, RFCLIPParams, SCCLIPParams, SFPParams
from ovbench.methods.pearl import PEARL
from ovbench.methods.proxyclip import ProxyCLIP
from ovbench.methods.rfclip import RFCLIP
from ovbench.methods.scclip import SCCLIP
from ovbench.methods.sclip import SCLIP
from ovbench.methods.sfp import SFP

# the first four as they are called inside and outside of inference mode; lift_fresh is a tensor of host values
ASKING = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "_unique2", "lift_fresh")
IMAGE = np.random.default_rng(0).integers(0, 255, (64, 150, 3), np.uint8)


class Listening(TorchDispatchMode):
    """Collects the operations for which the host of a GPU would wait."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ASKING:
            self.heard.append(name)
        return function(*args, **(kwargs or {}))


LEVELS = {"pre_level": 3, "post_level": 1, "multi_start": 1, "multi_end": 4}
FROM_BLOCKS = [
    lambda towers: SCCLIP(towers, SCCLIPParams(**LEVELS)),
    lambda towers: SFP(towers, SFPParams(**LEVELS)),
    lambda towers: DiHCLIP(towers, DiHCLIPParams(**LEVELS, heads=1)),
    lambda towers: RFCLIP(towers, RFCLIPParams(class_token="window", channels=(3, 7))),
]
METHODS = [CLIP, MaskCLIP, ClearCLIP, NACLIP, SCLIP, GEM, ProxyCLIP, LPOSS, PEARL, *FROM_BLOCKS]


@pytest.mark.quick(6)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [0, 8])
def test_nothing_is_asked_before_the_decision(method, batch):
    towers = Backbones(**{name: tower.float() for name, tower in small_towers().items()})
    words = torch.nn.functional.normalize(torch.randn(3, 12), dim=-1)
    made = method(towers)
    queries = made.map_queries(Queries(words, torch.arange(3)))
    predictor = Predictor(made, Protocol(short_side=0, crop=64, stride=40), [queries])
    predictor.label(IMAGE)  # constants are uploaded once
    finish, decided = predictor.finish, []
    done = DeviceLabels([torch.zeros(64, 150, dtype=torch.int32)], made)
    predictor.finish = lambda prepared, means: decided.append(means) or done
    with Listening() as listening:
        if batch:
            batcher = WindowBatcher(predictor, batch)
            assert len([*batcher.add(0, IMAGE), *batcher.flush()]) == 1
        else:
            predictor.label(IMAGE)
    assert decided and listening.heard == ["lift_fresh"]  # the image itself
    with Listening() as listening:
        finish(predictor.windowed(IMAGE, (64, 150)), decided[0])
    assert "is_nonzero" in listening.heard  # the question whether scores are numbers
