"""Examples in docstrings and in docs/api.md run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import ovbench

PACKAGE = Path(ovbench.__file__).parent
MODULES = sorted(
    ".".join(("ovbench", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.quick(10)
@pytest.mark.parametrize(
    "module", [pytest.param(m, marks=[pytest.mark.slow] if m == "ovbench.api" else []) for m in MODULES]
)
def test_the_examples_of_a_module(module):
    done = doctest.testmod(importlib.import_module(module))
    assert done.attempted and not done.failed


@pytest.mark.slow
def test_the_page_of_the_api():
    done = doctest.testfile(str(PACKAGE.parent / "docs" / "api.md"), module_relative=False)
    assert done.attempted > 10 and not done.failed
