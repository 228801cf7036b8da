"""Rows of a bank against maps at the original size, written down region by region."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_vfm import radio, randomised
from towers import small_towers

from ovbench.backbones.preprocess import OPENAI
from ovbench.backbones.vfm import VfmVision
from ovbench.config.load import Protocol
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Queries
from ovbench.methods.support.backbone import SUPPORT
from ovbench.methods.support.bank_files import refuse_published_name
from ovbench.methods.tower_params import CorrCLIPParams
from ovbench.parity.recorder import Recorder
from ovbench.training.region_bank.rows import RowMaker
from ovbench.utils.errors import UsageError

IMAGE = np.random.default_rng(0).integers(0, 255, (90, 110, 3), np.uint8)
REGIONS = (np.arange(90)[:, None] // 40 * 4 + np.arange(110)[None] // 40 - 1).astype(np.int32)  # -1, 0, 1, 3, 4, 5, ...
PROTOCOL = Protocol(short_side=80, crop=64, stride=40, pad=56)
PARAMS = CorrCLIPParams(mask_merging=False)


def test_rows_are_means_at_the_original_size():
    towers = {name: tower.float() for name, tower in small_towers().items()}
    backbones = Backbones(**towers, vfm=VfmVision(randomised(radio()), OPENAI))
    maker = RowMaker(backbones, PROTOCOL, PARAMS)
    found = maker.rows(IMAGE, REGIONS)
    assert found.ids.tolist() == [number for number in np.unique(REGIONS) if number != 0] and found.ids[0] == -1

    notes, size = Recorder(), IMAGE.shape[:2]
    queries = Queries(torch.zeros(12, 12), torch.arange(12))  # a "score" per channel
    predictor = Predictor(maker.steps[0].method, PROTOCOL, [queries])
    image = predictor.prepare(IMAGE, REGIONS)
    predictor._label(image._replace(note=notes))
    keys = F.interpolate(backbones.vfm(torch.from_numpy(IMAGE))[None], size, mode="bilinear")[0]
    values = F.interpolate(notes.once("merged_scores")[None], size, mode="bilinear")[0]
    for row, number in enumerate(found.ids.tolist()):
        inside = torch.from_numpy(number == REGIONS)
        torch.testing.assert_close(found.keys[row], F.normalize(keys, dim=0)[:, inside].mean(1), atol=1e-5, rtol=1e-4)
        mean = F.normalize(values[:, inside].mean(1), dim=0)
        torch.testing.assert_close(found.values[row], mean, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_second_clip_has_rows_of_its_own():
    torch.manual_seed(1)
    first, second = (small_towers() for _ in range(2))
    for parameter in second.clip.float().parameters():
        parameter.data.mul_(1.1)
    others = {"dino": first.dino.float(), "vfm": VfmVision(randomised(radio()), OPENAI)}
    together = RowMaker(Backbones(clip=first.clip.float(), auxiliary=second.clip, **others), PROTOCOL, PARAMS)
    both = together.rows(IMAGE, REGIONS)
    alone = RowMaker(Backbones(clip=second.clip, **others), PROTOCOL, PARAMS, left_out=(-1, 3)).rows(IMAGE, REGIONS)
    assert both.auxiliary is not None and not torch.allclose(both.values, both.auxiliary)
    common = [number for number in both.ids.tolist() if number in alone.ids.tolist()]
    assert 0 in alone.ids and not {-1, 3} & set(alone.ids.tolist()) and len(common) > 3
    for number in common:
        torch.testing.assert_close(both.auxiliary[both.ids == number], alone.values[alone.ids == number])


def test_merged_regions_are_refused():
    with pytest.raises(ValueError, match="without mask merging"):
        RowMaker(Backbones(vfm=None), PROTOCOL, CorrCLIPParams())


def test_a_bank_built_here_is_no_published_one(tmp_path):
    assert SUPPORT.same("/data/coco", "coco") and not SUPPORT.same("/data/coco?search=keys", "coco")
    with pytest.raises(UsageError, match='"coco" is the name of a bank that the authors publish'):
        refuse_published_name(tmp_path / "coco")
    refuse_published_name(tmp_path / "mine")
    (tmp_path / "mine.bank.json").write_text("{}")
    (tmp_path / "mine.bank.json").rename(tmp_path / "coco.bank.json")  # renamed after it was built
    assert not SUPPORT.same(str(tmp_path / "coco"), "coco")
