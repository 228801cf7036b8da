"""A method of a third party with a tower of its own: from files, and as an installed package."""

import sys

import pytest

from ovbench.utils.registry import entry_points_by_group

TOWER = '''
import torch
from torch import nn
from ovbench.backbones.base import Loaded, Use
from ovbench.backbones.preprocess import Normalisation
from ovbench.backbones.text import TextEncoder

OWN = Normalisation((127.5,) * 3, (127.5,) * 3)
SEEDS = {"one": 1, "two": 2}

class Tower(nn.Module):
    """Patches of 16 pixels, and words as means of letters, in one space."""
    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patches, self.letters = nn.Conv2d(3, 8, 16, 16), nn.Embedding(256, 8)
    def encode_text(self, tokens):
        return self.letters(tokens).mean(1)

def letters(texts):
    return torch.tensor([list(text.encode()[:40].ljust(40)) for text in texts])

def load(spec):
    """A toy tower of a test."""
    tower = Tower(SEEDS[spec])
    return Loaded.of(tower, spec, text=TextEncoder(tower, letters), use=Use(OWN, patch=16))
'''
METHOD = """
from ovbench.methods.base import Method, Needs, PatchFeatures

class RadioSeg(Method):
    needs = Needs(backbones=("radio",))
    sees = reads = "radio"
    def encode(self, batch):
        x = self.radio.patches(batch.windows)
        return PatchFeatures(x.flatten(2).mT, tuple(x.shape[-2:]))
"""
SETTINGS = '[backbones]\nradio = "one"\n[protocol]\nmean = [127.5, 127.5, 127.5]\nstd = [127.5, 127.5, 127.5]\n'
EVAL = ("-d", "mini", "--limit", 1, "--json")


@pytest.fixture
def file(tmp_path):
    """A file with a method and its tower, and its settings beside it."""
    path = tmp_path / "radio.py"
    path.write_text(TOWER.replace("def load(", "def load_radio(") + METHOD)
    path.with_suffix(".toml").write_text(SETTINGS)
    return path


@pytest.fixture
def package(monkeypatch, tmp_path):
    """Install a package that announces both; its text can be changed."""

    def install(tower=TOWER, backbone="radio_pkg.tower"):
        site = tmp_path / "site"
        (site / "radio_pkg").mkdir(parents=True)
        (site / "radio_pkg" / "__init__.py").write_text("")
        (site / "radio_pkg" / "tower.py").write_text(tower)
        (site / "radio_pkg" / "method.py").write_text(METHOD)
        (site / "radio_pkg" / "radioseg.toml").write_text('[backbones]\nradio = "one"\n')
        info = site / "radio_pkg-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: radio-pkg\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[ovbench.methods]\nradioseg = radio_pkg.method:RadioSeg\n[ovbench.backbones]\nradio = {backbone}\n"
        )
        monkeypatch.syspath_prepend(str(site))
        entry_points_by_group.cache_clear()
        return site / "radio_pkg"

    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] == "radio_pkg"]:
        del sys.modules[name]
    entry_points_by_group.cache_clear()


@pytest.mark.slow
def test_a_file_brings_a_method_and_its_tower(ovbench, file, tmp_path):
    runs = [
        ovbench("eval", "-m", f"{file}:RadioSeg", *EVAL, "--out", tmp_path / "runs", *more)
        for more in ((), ("--weights", "radio=two"))
    ]
    assert [run.code for run in runs] == [0, 0], runs[0].err + runs[1].err
    one, two = (run.json() for run in runs)
    assert one["cell"]["backbones"] == {"radio": "one"} and two["cell"]["backbones"] == {"radio": "two"}
    assert one["weights"]["radio"]["sha256"] != two["weights"]["radio"]["sha256"]
    assert one["counts"] != two["counts"]


def test_a_tower_is_not_fed_with_the_colours_of_another(ovbench, file, tmp_path):
    file.with_suffix(".toml").write_text('[backbones]\nradio = "one"\n')
    done = ovbench("eval", "-m", f"{file}:RadioSeg", *EVAL, "--out", tmp_path / "runs")
    assert done.code == 3 and "one was trained with mean [127.5, 127.5, 127.5]" in done.err, done.err
    telling = file.with_name("telling.py")
    telling.write_text(file.read_text() + "\ndef normalisation_radio(spec):\n    return OWN\n")
    telling.with_suffix(".toml").write_text('[backbones]\nradio = "one"\n')
    known = ovbench("eval", "-m", f"{telling}:RadioSeg", *EVAL, "--out", tmp_path / "runs")
    assert known.code == 0 and known.json()["cell"]["protocol"]["mean"] == [127.5] * 3, known.err


@pytest.mark.quick(1)
@pytest.mark.parametrize("backbone", ["radio_pkg.tower", "radio_pkg.tower:load", "radio_pkg.tower:Entry"])
def test_a_package_announces_a_tower_and_a_method_that_needs_it(ovbench, package, tmp_path, backbone):
    entry = "\nclass Entry:\n    title, normalisation, load = load.__doc__, OWN, staticmethod(load)\n"
    package(TOWER + entry, backbone)
    listed = {row["backbone"]: row for row in ovbench("list", "backbones", "--json").json()}
    assert listed["radio"]["what"] == "A toy tower of a test." and not listed["radio"]["broken"]
    assert {"clip", "dino", "dinov2", "psi", "presence", "reference"} < listed.keys()
    run = ["eval", "-m", "radioseg", *EVAL, "--out", tmp_path / "runs"]
    if not backbone.endswith("Entry"):
        run += ["--set", "mean=127.5,127.5,127.5", "--set", "std=127.5,127.5,127.5"]
    done = ovbench(*run)
    assert done.code == 0, done.err
    assert done.json()["cell"]["backbones"] == {"radio": "one"}


@pytest.mark.slow
def test_counts_of_a_tower_whose_code_changed_are_not_taken(ovbench, package, file, tmp_path):
    place = package(TOWER + "\nnormalisation = OWN\n")
    file.write_text(METHOD)
    run = ("eval", "-m", f"{file}:RadioSeg", *EVAL, "--out", tmp_path / "runs")
    first = ovbench(*run)
    assert first.code == 0 and "differs in" not in first.err, first.err
    (place / "tower.py").write_text(TOWER + "\nnormalisation = OWN\n# changed\n")
    again = ovbench(*run)
    assert again.code == 0 and "differs in code.backbones" in again.err, again.err


WRONG = {
    "no tower": ("def load(spec):\n    return 3\n", "gives an object of int"),
    "a mistake": ("def load(spec):\n    return {}[spec]\n", "KeyError: 'one'"),
    "no function": ("load = 3\n", "3 is not a backbone"),
    "an unknown file": (
        "def load(spec): ...\ndef missing(spec):\n    return ['radio.pt of someone/radio']\n",
        "radio.pt of someone/radio",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_tower_is_one_sentence(ovbench, package, tmp_path, monkeypatch, text):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tower, said = WRONG[text]
    package(tower)
    done = ovbench("eval", "-m", "radioseg", *EVAL, "--out", tmp_path / "runs")
    assert done.code == 3 and said in done.err and "defect" not in done.err, done.err
    rows = {row["backbone"]: row["broken"] for row in ovbench("list", "backbones", "--json").json()}
    assert bool(rows["radio"]) == (text == "no function") and not rows["clip"]
    told = [row for row in ovbench("doctor", "--json").json() if row["area"] == "plug-ins" and "radio" in row["what"]]
    assert {row["state"] for row in told if "backbone" in row["what"]} == {"warning" if rows["radio"] else "ok"}


def test_a_backbone_that_nobody_brings_is_named(ovbench, file, tmp_path):
    file.write_text(TOWER + METHOD)
    done = ovbench("eval", "-m", f"{file}:RadioSeg", *EVAL, "--out", tmp_path / "runs")
    assert done.code == 2 and 'unknown backbone "radio"' in done.err, done.err


def test_a_tower_without_a_name_is_asked_for(ovbench, file, tmp_path):
    file.with_suffix(".toml").unlink()
    done = ovbench("eval", "-m", f"{file}:RadioSeg", *EVAL, "--out", tmp_path / "runs")
    assert done.code == 2 and 'needs the backbone "radio"' in done.err and "--weights radio=MODEL" in done.err
