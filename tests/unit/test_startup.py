"""Commands load only what they need: names, help and mistakes come without torch.

`scripts/bench/startup.py` measures the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HISTORIC = sorted(str(path) for path in (ROOT / "tests" / "historic").glob("*.json"))
HEAVY = {
    "torch", "torchvision", "cv2", "scipy", "skimage", "sklearn", "pandas", "mmengine", "mmseg", "open_clip", "timm",
    "transformers", "huggingface_hub", "matplotlib", "rich", "pydantic", "numpy", "PIL", "jinja2",
}  # fmt: skip
NOTHING: set[str] = set()
PRINTS, TYPES = {"rich"}, {"pydantic"}
HUB = {"huggingface_hub"}  # its constants: where the cache is
NUMBERS = {"numpy", "scipy"}
IMAGES = {"PIL", "cv2"}
MINI = ("-m", "clip", "-d", "mini")
MAY_LOAD = {
    ("--help",): NOTHING,
    ("--version",): NOTHING,
    ("eval", "--help"): NOTHING,
    ("gate", "--help"): NOTHING,
    ("table", "--help"): NOTHING,
    ("eval", "--mthod", "clip"): NOTHING,
    ("evla",): NOTHING,
    ("table", "--format", "x"): NOTHING,
    ("segment",): NOTHING,
    ("list", "methods"): PRINTS | TYPES,
    ("list", "datasets"): PRINTS | TYPES,
    ("list", "suites"): PRINTS | TYPES,
    ("list", "backbones"): PRINTS | TYPES,
    ("list", "regions"): PRINTS | TYPES | HUB,
    ("show", "corrclip", "mini"): PRINTS | TYPES,
    ("show", "corrclip", "voc21"): PRINTS | TYPES | HUB,
    ("show", "talk2dino", "ade150"): PRINTS | TYPES | HUB,
    ("show", "cass", "voc21", "--set", "gama=1"): TYPES,
    ("eval", "-m", "clipp", "-d", "mini"): TYPES,
    ("eval", "-m", "clip", "-d", "minni"): TYPES,
    ("eval", "-m", "clip"): TYPES,
    ("eval", "--suite", "corrclip-tabel2"): TYPES,
    ("eval", *MINI, "--set", "lenght=1"): TYPES,
    ("eval", *MINI, "--set", "crop=wide"): TYPES,
    ("eval", *MINI, "--weights", "dyno=mini"): TYPES,
    ("eval", *MINI, "--shard", "3"): TYPES,
    ("segment", "photo.jpg", "-c", "a", "--like", "minni"): TYPES,
    ("segment", "photo.jpg", "-c", "a", "--like", "mini", "-m", "clipp"): TYPES,
    ("segment", "photo.jpg", "-c", "a", "-m", "clipp"): TYPES,
    ("segment", "photo.jpg", "-c", "a,b"): TYPES,
    ("score", "-d", "minni", "--predictions", "maps"): TYPES,
    ("score", "-d", "mini", "--predictions", "none"): TYPES,
    ("table", "--runs", "tests/historic"): PRINTS | TYPES | {"numpy"},
    ("table", "--layout", "corrclip-table1", "--format", "markdown"): PRINTS | TYPES | HUB | {"numpy"},
    ("table", "--layout", "corrclip-tabel1"): PRINTS | TYPES | {"numpy"},
    ("weights", "list", "-m", "corrclip", "-d", "voc21"): TYPES | HUB,
    ("leaderboard", "tests/none"): TYPES | {"numpy"},
    ("check-record", "tests/historic"): PRINTS | TYPES | {"numpy"},
    ("parity", "NOFOLDER"): PRINTS,
    ("gate", "--baseline", "none.json"): PRINTS | TYPES | NUMBERS,
    ("gate", "--baseline", "none.json", "--update", "-m", "clipp", "-d", "mini"): PRINTS | TYPES | NUMBERS,
    ("describe", "-d", "minni", "--llm", "x"): TYPES,
    ("describe", "import", "none.py", "-d", "minni"): TYPES,
    ("check", "clipp"): TYPES,
    ("check", "corrclip", "--set", "tua=1"): TYPES,
    ("masks", "build", "--dataset", "minni", "--regions", "slic"): TYPES,
    ("masks", "build", "--dataset", "mini", "--regions", "slick"): TYPES,
    ("data", "verify", "minni"): TYPES,
    ("data", "subset", "minni", "-n", "3"): TYPES,
    ("plot", "classes", "none.json", "--out", "a.png"): TYPES | {"numpy"},
    ("report", "none.json"): TYPES | {"numpy"},
    ("compare", *HISTORIC): PRINTS | TYPES | NUMBERS,
    ("sweep", "plan", *MINI, "--limit", "1", "--out", "memory://startup"): PRINTS | TYPES | NUMBERS | IMAGES,
    ("sweep", "watch", "none", "--once"): TYPES | NUMBERS,
    ("reference", "build", "--images", "none", "--captions", "c.json", "--out", "ref"): NOTHING,
    ("reference", "verify", "none"): TYPES,
    ("bank", "build", "--images", "none", "--out", "banks/mine"): NOTHING,
    ("bank", "merge", "none/a", "--out", "banks/mine"): TYPES,
    ("train", "talk2dino", "--images", "none", "--captions", "none.json"): NOTHING,
    ("rerun", "none.json"): TYPES | {"numpy"},
    ("power", *HISTORIC): TYPES | NUMBERS | PRINTS,
}
CODE = """
import json, os, sys
from ovbench.__main__ import main
stdout = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
loaded = []
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit:
        pass
    loaded.append(sorted(sys.modules))
sys.stdout.flush()
os.write(stdout, json.dumps(loaded).encode())
"""


def modules(*commands: tuple[str, ...], code: str = CODE) -> list[set[str]]:
    """The modules that a process has loaded after each of the commands, which it runs one after the other."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    return [set(names) for names in json.loads(done.stdout)]


ALLOWED = [  # a process each; the quick tests start that of the commands which may load nothing
    pytest.param(may, id="-".join(may) or "nothing", marks=[pytest.mark.slow] if may else [])
    for may in sorted(map(sorted, {frozenset(may) for may in MAY_LOAD.values()}))
]


@pytest.mark.parametrize("may", ALLOWED)
def test_commands_load_no_more_than_they_may(may):
    """One process for those that may load the same: what one loads without need shows there too."""
    commands = [command for command, allowed in MAY_LOAD.items() if allowed == set(may)]
    for command, loaded in zip(commands, modules(*commands), strict=True):
        assert "click" in loaded
        assert HEAVY & loaded <= set(may), " ".join(command)


@pytest.mark.slow
def test_a_report_without_images_loads_no_torch(tmp_path):
    (loaded,) = modules(("report", *HISTORIC, "--images", "0", "--out", str(tmp_path / "report.html")))
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert not {"torch", "torchvision", "open_clip", "timm", "transformers", "skimage", "pandas"} & loaded


def test_importing_the_package_loads_nothing():
    (loaded,) = modules((), code="import ovbench; ovbench.__all__\n" + CODE.replace("main()\n", "pass\n", 1))
    assert not HEAVY & loaded


@pytest.mark.slow
def test_an_evaluation_loads_no_library_that_clip_does_not_need(tmp_path):
    words = ("eval", "-m", "clip", "-d", "mini", "--limit", "1", "--device", "cpu", "--out", str(tmp_path))
    (loaded,) = modules(words)
    assert {"torch", "ovbench.inference.pipeline"} <= loaded and list(tmp_path.glob("*.json"))
    unused = HEAVY - {"torch", "numpy", "scipy", "cv2", "PIL", "pydantic", "rich", "huggingface_hub"}
    assert not (unused | {"mmcv", "torch._dynamo", "sympy", "ftfy", "regex"}) & loaded
