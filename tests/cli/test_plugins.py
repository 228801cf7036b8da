"""Methods from files and modules, classes of mmsegmentation as they are, and the conformance kit."""

import pytest

OWN = '''
import torch
from dataclasses import dataclass
from ovbench.methods.base import Batch, Method, PatchFeatures

@dataclass(frozen=True)
class Params:
    gain: float = 1.0

class CLIP(Method):
    """Named like a method that is there already."""
    Params = Params
    def encode(self, batch: Batch) -> PatchFeatures:
        tokens, grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(tokens)
        return PatchFeatures(self.clip.project(x[:, 1:]) * self.params.gain, grid)

class Crowd(CLIP):
    windowwise = True
    def encode(self, batch):
        features = super().encode(batch)
        return features._replace(tokens=features.tokens - features.tokens.mean(0, keepdim=True))

class Chance(CLIP):
    def encode(self, batch):
        features = super().encode(batch)
        return features._replace(tokens=torch.randn_like(features.tokens))

class Peek(CLIP):
    path = ""
    def encode(self, batch):
        open(self.path, "rb").close()
        return super().encode(batch)
'''
THIRD = """
import torch
from mmengine.structures import PixelData
from mmseg.models import BaseSegmentor
from mmseg.models.data_preprocessor import SegDataPreProcessor
import beside

class Bright(BaseSegmentor):
    def __init__(self, name_path, device=torch.device("cuda"), chosen=0, **kwargs):
        super().__init__(data_preprocessor=SegDataPreProcessor(bgr_to_rgb=True))
        self.names = open(name_path).read().splitlines()
        self.net = torch.nn.Conv2d(3, 1, 1).to(device)
        self.chosen = chosen
    def predict(self, inputs, data_samples):
        assert inputs.shape[-2:] == data_samples[0].metainfo["img_shape"] and not data_samples[0].metainfo["img_path"]
        for sample in data_samples:
            labels = torch.full((1, *sample.metainfo["ori_shape"]), beside.SHIFT + self.chosen)
            sample.set_data({"pred_sem_seg": PixelData(data=labels)})
        return data_samples
    def encode_decode(self, inputs, batch_data_samples): ...
    def extract_feat(self, inputs): ...
    def _forward(self, inputs, data_samples=None): ...
    def loss(self, inputs, data_samples): ...
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


@pytest.fixture
def third(tmp_path):
    (tmp_path / "third.py").write_text(THIRD)
    (tmp_path / "beside.py").write_text("SHIFT = 0\n")
    return tmp_path / "third.py"


def evaluate(ovbench, tmp_path, *arguments):
    return ovbench("eval", *arguments, "-d", "mini", "--limit", 1, "--out", tmp_path / "runs", "--json")


@pytest.mark.slow
def test_a_class_in_a_file_runs_as_itself_with_its_settings_and_its_code_is_in_the_record(ovbench, own, tmp_path):
    done = evaluate(ovbench, tmp_path, "-m", f"{own}:CLIP", "--set", "gain=2.5")
    assert done.code == 0, done.err
    record = done.json()
    assert record["cell"]["params"] == {"gain": 2.5} and len(record["code"]["method"]) == 64
    assert {path.stem.split("-mini")[0] for path in (tmp_path / "runs").glob("*.json")} == {"own-CLIP"}
    builtin = evaluate(ovbench, tmp_path, "-m", "clip").json()
    assert builtin["counts"] != record["counts"]
    own.write_text(OWN + "\n# another line\n")
    changed = evaluate(ovbench, tmp_path, "-m", f"{own}:CLIP", "--set", "gain=2.5")
    assert changed.code == 0 and "is counted again" in changed.err and "differs in code.method" in changed.err


@pytest.mark.slow
def test_settings_beside_the_file(ovbench, own, tmp_path):
    own.with_suffix(".toml").write_text("[params]\ngain = 3.0\n")
    assert evaluate(ovbench, tmp_path, "-m", f"{own}:CLIP").json()["cell"]["params"] == {"gain": 3.0}


@pytest.mark.slow
def test_a_segmentor_of_mmsegmentation_runs_through_its_predict(ovbench, third, tmp_path):
    done = evaluate(ovbench, tmp_path, "-m", f"{third}:Bright", "--set", "chosen=2")
    assert done.code == 0, done.err
    record = done.json()
    assert [index for index, pixels in enumerate(record["counts"]["predicted"]) if pixels] == [2]
    assert record["cell"]["params"] == {"name_path": "{classes}", "chosen": 2} and record["weights"]["model"]["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("CLIP", set()),
        ("Crowd", {"independent of batch neighbours", "equal in mixed batches"}),
        ("Chance", {"equal in a second run", "independent of earlier images", "independent of batch neighbours"}),
    ],
)
def test_the_kit_finds_what_is_wrong(ovbench, own, name, failing):
    done = ovbench("check", f"{own}:{name}", "--json")
    assert {row["check"] for row in done.json() if row["verdict"] == "fail"} == failing, done.out
    assert done.code == (1 if failing else 0)


@pytest.mark.slow
def test_the_kit_finds_who_opens_labels(ovbench, own):
    from ovbench.data.card import load_card
    from ovbench.data.dataset import open_dataset

    item = open_dataset(load_card("mini")).items[0]
    own.write_text(OWN.replace('path = ""', f"path = {str(item.label_path)!r}"))
    done = ovbench("check", f"{own}:Peek", "--json")
    assert [row["check"] for row in done.json() if row["verdict"] == "fail"] == ["opens no file of the benchmark"]


@pytest.mark.slow
def test_the_kit_on_a_segmentor_of_mmsegmentation(ovbench, third):
    found = {row["check"]: row["verdict"] for row in ovbench("check", f"{third}:Bright", "--json").json()}
    assert "fail" not in found.values() and found["independent of batch neighbours"] == "not applicable"


@pytest.mark.slow
def test_what_cannot_be_loaded(ovbench, own, tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    for name, code, words in (
        (f"{tmp_path / 'none.py'}:X", 3, 'no file "none.py"'),
        (f"{own}:Crow", 3, "it defines CLIP, Chance, Crowd"),
        (f"{own}:Params", 2, "is not a method"),
        (f"{tmp_path / 'broken.py'}:X", 3, "nothing_like_this"),
        ("no_such_module:X", 3, 'cannot import "no_such_module"'),
    ):
        done = evaluate(ovbench, tmp_path, "-m", name)
        assert done.code == code and words in done.err, (name, done.err)
