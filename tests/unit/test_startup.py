"""Commands load only what they need: names, help and mistakes come without torch."""

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
    "transformers", "matplotlib", "rich", "pydantic", "numpy", "PIL",
}  # fmt: skip
NOTHING: set[str] = set()
PRINTS, TYPES = {"rich"}, {"pydantic"}
NUMBERS = {"numpy"}
MAY_LOAD = {
    ("--version",): NOTHING,
    ("gate", "--help"): NOTHING,
    ("table", "--help"): NOTHING,
    ("eval", "--mthod", "clip"): NOTHING,
    ("evla",): NOTHING,
    ("list", "methods"): PRINTS | TYPES,
    ("list", "datasets"): PRINTS | TYPES,
    ("list", "suites"): PRINTS | TYPES,
    ("eval", "-m", "clipp", "-d", "mini"): TYPES,
    ("eval", "-m", "clip", "-d", "minni"): TYPES,
    ("compare", *HISTORIC): NUMBERS | PRINTS | TYPES | {"scipy", "cv2", "PIL"},
}
CODE = """
import json, os, sys, time
from ovbench.__main__ import main
stdout = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
try:
    main()
except SystemExit:
    pass
sys.stdout.flush()
os.write(stdout, json.dumps([sorted(sys.modules), time.process_time()]).encode())
"""


def modules(code: str, *arguments: str) -> tuple[set[str], float]:
    """The modules that a program loaded, and its CPU seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    loaded, seconds = json.loads(done.stdout)
    return set(loaded), seconds


@pytest.mark.parametrize("command", MAY_LOAD, ids=" ".join)
def test_a_command_loads_no_more_than_it_may(command):
    loaded, seconds = modules(CODE, *command)
    assert "click" in loaded
    assert HEAVY & loaded <= MAY_LOAD[command]
    assert seconds < 3  # 0.1 to 0.5 on a machine that has time


def test_importing_the_package_loads_nothing():
    loaded, _ = modules("import ovbench; ovbench.__all__\n" + CODE.replace("main()\n", "pass\n", 1), "x")
    assert not HEAVY & loaded


@pytest.mark.slow
def test_an_evaluation_loads_neither_mmengine_nor_mmseg(tmp_path):
    words = ("eval", "-m", "clip", "-d", "mini", "--limit", "1", "--device", "cpu", "--out", str(tmp_path))
    loaded, _ = modules(CODE, *words)
    assert {"torch", "ovbench.inference.pipeline"} <= loaded and list(tmp_path.glob("*.json"))
    # open_clip loads transformers, and torch loads pandas, where they are installed
    assert not {"mmengine", "mmseg", "mmcv", "matplotlib", "skimage"} & loaded
