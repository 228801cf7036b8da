"""`ovbench doctor`, and names that a shell completes."""

import json
import subprocess
import sys

import pytest

from ovbench.evaluation import doctor
from ovbench.utils import provenance as env
from ovbench.utils.registry import METHODS

GOOD = {"python": "3.11", "mmcv-lite": "2.1.0", "mmsegmentation": "1.2.2", "torch": "2.6.0", "numpy": "2.1.0"}


@pytest.mark.parametrize(
    ("changed", "what", "fix"),
    [
        ({"mmcv-lite": "2.2.0"}, "mmsegmentation 1.2.2 refuses 2.2", "pip install mmcv-lite==2.1.0"),
        ({"torch": "2.2.2+cpu"}, "built for NumPy 1", "numpy<2"),
        ({"timm": None}, "timm is not installed", "pip install timm"),
    ],
)
def test_known_bad_pairs_have_a_fix(changed, what, fix):
    (found,) = [f for f in doctor.known_bad(GOOD | changed) if f.state == "problem"]
    assert what in found.what and fix in found.fix


def test_a_missing_system_library_is_named_with_its_package(monkeypatch):
    def refuse(name):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    (found,) = doctor._imports()
    assert found.state == "problem" and "libGL.so.1" in found.what and "apt-get install libgl1" in found.fix


def test_a_cache_that_cannot_be_made_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    (found,) = doctor._cache()
    assert found.state == "problem" and "OVBENCH_CACHE" in found.fix


@pytest.mark.slow
def test_this_machine(ovbench, monkeypatch, tmp_path):
    done = ovbench("doctor", "--json")
    found = done.json()
    assert {"packages", "devices", "cache", "disk", "data", "weights"} <= {row["area"] for row in found}
    problems = [row for row in found if row["state"] == "problem"]
    assert done.code == (3 if problems else 0)
    assert all(row["fix"] for row in found if row["state"] in ("problem", "warning"))
    assert any(row["what"] == f"torch {env.version_of('torch')}" for row in found)
    wrong = ovbench("doctor", "--data-root", tmp_path / "none", "--json")
    assert wrong.code == 3 and any("none" in row["what"] for row in wrong.json() if row["state"] == "problem")


COMPLETED = {
    "ovbench eval -m corr": ["corrclip", "corrclipv2"],
    "ovbench show mask": [name for name in METHODS.names() if name.startswith("mask")],
    "ovbench eval -d voc": ["voc20", "voc21"],
    "ovbench eval --suite cass-c": ["cass-components"],
    "ovbench table --layout mess": ["mess-datasets", "mess-domains"],
}
COMPLETE = """
import os, sys
from ovbench.__main__ import main
os.environ["_OVBENCH_COMPLETE"] = "bash_complete"
for words in sys.argv[1:]:
    os.environ.update(COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    sys.argv = ["ovbench"]
    print("words", words)
    try:
        main()
    except SystemExit:
        pass
print("torch", "torch" in sys.modules)
"""


@pytest.mark.slow
def test_names_complete_without_torch():
    done = subprocess.run([sys.executable, "-c", COMPLETE, *COMPLETED], capture_output=True, text=True, check=True)
    expected = []
    for words, names in COMPLETED.items():
        expected += [f"words {words}", *(f"plain,{name}" for name in names)]
    assert done.stdout.splitlines() == [*expected, "torch False"], done.stderr


def test_the_list_of_datasets_fits_a_terminal_and_json_has_everything(ovbench):
    assert json.loads(ovbench("list", "datasets", "--json").out)[0].keys() >= {"title", "split", "layout", "state"}
    printed = ovbench("list", "datasets").out
    assert "title" not in printed and "coco-object" in printed
