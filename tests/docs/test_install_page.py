"""docs/install.md names every extra; messages name packages that a checkout can install; the Dockerfile's steps."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from ovbench.utils import extras
from ovbench.utils.toml import read_toml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
EXTRAS = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]


def test_every_extra_stands_on_the_page():
    heads = re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
    assert {name for head in heads for name in re.findall(r"`(\w+)`", head)} == set(EXTRAS)


def test_every_extra_that_a_page_or_a_message_names_exists():
    texts = [path.read_text(encoding="utf-8") for path in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md")]
    lists = [names for text in texts for names in re.findall(r'pip install "\.\[([\w,]+)\]', text)]
    named = {name for names in lists for name in names.split(",")}
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "ovbench").rglob("*.py"))
    used = set(re.findall(r"install_line\([\"'](\w+)[\"']\)", code))
    assert len(named) > 3 and named - {"NAME"} <= set(EXTRAS)
    assert len(used) > 5 and used <= set(EXTRAS)
    assert "ovbench[" not in code.replace("ovbench[:", "")  # no index knows the extras of a checkout


def test_the_line_of_an_extra_names_its_packages(monkeypatch, tmp_path):
    assert extras.install_line("reme") == 'pip install "inflect>=7.0" "pyarrow>=14.0" "textblob>=0.17"'
    monkeypatch.setattr(extras, "PROJECT", tmp_path / "pyproject.toml")  # as in an installed package
    lines = ["click>=8.1", "matplotlib>=3.7; extra == 'plot'", 'pyarrow>=14.0.1; extra == "parquet"']
    monkeypatch.setattr(extras, "requires", lambda name: lines)
    assert extras.install_line("plot") == 'pip install "matplotlib>=3.7"'
    assert extras.install_line("parquet") == 'pip install "pyarrow>=14.0.1"'
    with pytest.raises(KeyError):
        extras.extra_packages("plott")


def test_the_steps_of_the_dockerfile():
    spec = importlib.util.spec_from_file_location("run_dockerfile", ROOT / "scripts" / "run_dockerfile.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.steps((ROOT / "Dockerfile").read_text())
    assert [step.name for step in found] == [
        "FROM", "RUN", "ARG", "RUN", "WORKDIR", "COPY", "RUN", "RUN", "ENTRYPOINT"
    ]  # fmt: skip
    commands = module.commands(found, {"TORCH_INDEX": "https://example.invalid"})
    assert len(commands) == 3 and commands[0][1] == {"TORCH_INDEX": "https://example.invalid"}
    assert "[test]" in commands[1][0] and "pytest" in commands[2][0]
    base = re.search(r"python:(3\.\d+)", found[0].text)[1]
    assert base in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
