"""Segmentors of other repositories: each has its own modules, registry and process.

Their class is a plain module with ``test_step``: mmseg.models, which tests/cli/test_plugins.py uses, takes seconds to
import in every process.
"""

import os
import subprocess
import sys
import time

import pytest
import torch

from ovbench.methods.plugins import load_method
from ovbench.utils.errors import InputError

SEGMENTOR = """
import sys
import clip
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from pkg_resources import packaging, parse_version, get_distribution, resource_filename
from prompts.templates import SHIFT

assert parse_version("2.10") > packaging.version.parse("2.9") and get_distribution("torch").version
assert resource_filename("clip", "vocab.txt").endswith("clip/vocab.txt")

@MODELS.register_module()
class Segmentor(torch.nn.Module):
    def __init__(self, name_path, step=1, tau=0.5, path="", device=torch.device("cuda")):
        super().__init__()
        with open(name_path) as file:
            self.classes = len(file.read().splitlines())
        self.net = clip.load("tiny")
        self.query_features = torch.zeros(3)
        self.step, self.path, self.device, self.calls = step, path, device, 0
    def test_step(self, data):
        return self.predict(torch.stack(data["inputs"]), data["data_samples"])
    def predict(self, inputs, data_samples):
        import pamr
        self.calls += 1
        HERE
        for sample in data_samples:
            chosen = (clip.NUMBER + SHIFT + pamr.ITERATIONS) * self.step % self.classes
            labels = torch.full((1, *sample.metainfo["ori_shape"]), chosen)
            sample.set_data({"pred_sem_seg": PixelData(data=labels)})
        return data_samples

MODELS.register_module(name="ByName", module=Segmentor)
"""


@pytest.fixture
def repository(tmp_path):
    """``repository("a", 3)``: a segmentor with its own clip, prompts, pamr, as repositories have them; what it labels
    depends on all three."""

    def make(name, number, here="pass"):
        root = tmp_path / name
        for folder in ("clip", "prompts"):
            (root / folder).mkdir(parents=True)
        (root / "clip/__init__.py").write_text("from .clip import *\n")
        (root / "clip/clip.py").write_text(
            f"import torch\nNUMBER = {number}\ndef load(name):\n    return torch.nn.Linear({number}, 1)\n"
        )
        (root / "prompts/templates.py").write_text(f"SHIFT = {number}\n")
        (root / "pamr.py").write_text(f"ITERATIONS = {number}\n")
        (root / "segmentor.py").write_text(SEGMENTOR.replace("HERE", here))
        return f"{root}/segmentor.py:Segmentor"

    return make


def evaluate(ovbench, out, *names, images=1):
    methods = [part for name in names for part in ("-m", name)]
    return ovbench("eval", *methods, "-d", "mini", "--limit", images, "--out", out, "--json", "--device", "cpu")


def predicted(record):
    return [index for index, pixels in enumerate(record["counts"]["predicted"]) if pixels]


@pytest.mark.slow
def test_two_repositories_with_modules_of_the_same_names_do_not_meet(ovbench, repository, monkeypatch, tmp_path):
    first, second = repository("a", 2), repository("b", 5)
    installed = tmp_path / "site"
    (installed / "clip").mkdir(parents=True)
    (installed / "clip/__init__.py").write_text("raise ImportError('the installed clip')\n")
    monkeypatch.syspath_prepend(str(installed))
    both = evaluate(ovbench, tmp_path / "both", first, second)
    assert both.code == 0, both.err
    records = both.json()
    assert [predicted(record) for record in records] == [[6], [15]]
    hashes = {record["weights"][key]["sha256"] for record in records for key in ("model", "code")}
    assert len(hashes) == 4
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & {"clip", "prompts", "pamr", "segmentor"}

    (tmp_path / "a/prompts/templates.py").write_text("SHIFT = 3\n")  # an edited helper is other code
    alone = evaluate(ovbench, tmp_path / "second", second).json()
    edited = evaluate(ovbench, tmp_path / "new", first).json()
    assert alone["counts"] == records[1]["counts"] and alone["weights"]["code"] == records[1]["weights"]["code"]
    assert predicted(edited) == [7] and edited["weights"]["code"] != records[0]["weights"]["code"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Segmentor", "ByName"])  # of the class, and in the registry of mmsegmentation
def test_settings_come_from_the_constructor(repository, name):
    import dataclasses

    entry = load_method(repository("a", 2).replace(":Segmentor", f":{name}"))
    assert entry.__name__ == "Segmentor" and not entry.needs.backbones
    assert dataclasses.asdict(entry.Params()) == {"name_path": "{classes}", "step": 1, "tau": 0.5, "path": ""}
    assert {f.name: f.type for f in dataclasses.fields(entry.Params)} == {
        "name_path": str, "step": int, "tau": float, "path": str,
    }  # fmt: skip


WRONG = {
    'raise KeyError("no")': "Segmentor failed: KeyError: 'no'",
    "sys.exit(0)": "Segmentor failed: SystemExit: 0",
    "import os; os._exit(7)": "Segmentor crashed: its process ended with exit code 7",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "was ended by SIGKILL, perhaps because memory ran out",
    "return data_samples[:0]": "IndexError",
    "shape = data_samples[0].metainfo['ori_shape']; data = torch.full((1, *shape), 999); "
    "data_samples[0].set_data({'pred_sem_seg': PixelData(data=data)}); return data_samples": "labels 999..999 for 28",
}


@pytest.mark.slow
def test_images_that_a_segmentor_cannot_do_fail_by_themselves(ovbench, repository, tmp_path):
    cases = "\n".join(f"        if call == {number}: {line}" for number, line in enumerate(WRONG))
    log = str(tmp_path / "calls")
    name = repository("a", 2, f"open({log!r}, 'a').write('.'); call = len(open({log!r}).read()) - 1\n{cases}")
    done = evaluate(ovbench, tmp_path / "runs", name, images=7)
    record = done.json()
    assert done.code == 4 and "defect" not in done.err and record["dataset"]["images"] == 1
    for reason, (line, words) in zip(record["failed"].values(), WRONG.items(), strict=True):
        assert words in reason, reason
        if "failed: " in words:
            assert f"{tmp_path}/a/segmentor.py, line " in reason, line


@pytest.mark.slow
def test_a_segmentor_that_cannot_be_built(ovbench, repository, tmp_path):
    name = repository("a", 2)
    (tmp_path / "a/clip/clip.py").write_text("NUMBER = 1\ndef load(name):\n    raise OSError('no weights')\n")
    done = evaluate(ovbench, tmp_path / "runs", name)
    assert done.code == 3 and "Segmentor cannot be built: OSError: no weights (" in done.err
    assert f"{tmp_path}/a/clip/clip.py, line 3)" in done.err and "--set NAME=VALUE" in done.err
    both = evaluate(ovbench, tmp_path / "both", name, "clip")
    assert both.code == 4 and both.json()["cell"]["method"] == "clip" and "failed: " in both.err


@pytest.mark.slow
@pytest.mark.parametrize("text", ["raise RuntimeError('boom')", "import sys; sys.exit(0)", "def ("])
def test_a_repository_that_cannot_be_imported(repository, tmp_path, text):
    name = repository("a", 2)
    (tmp_path / "a/clip/clip.py").write_text(f"\n{text}\n")
    with pytest.raises(InputError) as raised:
        load_method(name)
    assert f"{tmp_path}/a/clip/clip.py, line 2" in str(raised.value), raised.value


def test_tensors_that_are_no_buffers_move_too(tmp_path):
    from ovbench.integrations.third_party_worker import move

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)
            self.register_buffer("mean", torch.zeros(2))
            self.query_features = torch.zeros(2)
            self.held = [torch.zeros(1), {"a": torch.zeros(1)}, (torch.zeros(1), 3)]
            self.towers = [torch.nn.Linear(1, 1)]
            self.held_by_itself = [self]

    net = Net()
    move(net, torch.device("meta"), tmp_path)
    tensors = [
        net.layer.weight, net.mean, net.query_features, net.held[0], net.held[1]["a"], net.held[2][0],
        net.towers[0].weight,
    ]  # fmt: skip
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert isinstance(net.layer.weight, torch.nn.Parameter) and net.held[2][1] == 3


@pytest.mark.slow
def test_the_process_ends_with_its_parent(repository, tmp_path):
    name = repository("a", 2)
    code = (
        "import os, sys; from ovbench.methods.plugins import load_method\n"
        "print(load_method(sys.argv[1]).idle.process.pid, flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    pid = int(done.stdout.split()[-1])
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
            os.kill(pid, 0)
        except (OSError, ProcessLookupError):
            return
        time.sleep(0.1)
    pytest.fail("the process is still there")


def test_methods_from_files_never_take_a_helper_from_another_folder(ovbench, tmp_path):
    text = "from helper import GAIN\nfrom ovbench.methods.clip import CLIP\nclass Mine(CLIP):\n    gain = GAIN\n"
    for name, gain in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"GAIN = {gain}\n")
        (tmp_path / name / "mine.py").write_text(text)
    try:
        assert load_method(f"{tmp_path}/a/mine.py:Mine").gain == 1
        with pytest.raises(InputError, match='needs its own module "helper"'):
            load_method(f"{tmp_path}/b/mine.py:Mine")
    finally:
        sys.modules.pop("helper", None)
