"""Files for maintainers agree with each other: versions, the pinned linter, the pages of the site, the two Pythons."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ovbench.utils.toml import read_toml

ROOT = Path(__file__).parents[2]


def text(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def test_one_ruff():
    hook = next(repo for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"] if "ruff" in repo["repo"])
    dev = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]["dev"]
    assert f"ruff=={hook['rev'].removeprefix('v')}" in dev


def test_continuous_integration_runs_the_line_of_the_readme_on_two_pythons():
    jobs = yaml.safe_load(text(".github", "workflows", "ci.yml"))["jobs"]
    assert len(jobs["tests"]["strategy"]["matrix"]["python"]) == 2
    assert any(step.get("run") == "bash .ci/run" for step in jobs["tests"]["steps"])
    oldest = re.search(r">=(3\.\d+)", read_toml(ROOT / "pyproject.toml")["project"]["requires-python"])[1]
    assert oldest in jobs["tests"]["strategy"]["matrix"]["python"]
    named = re.findall(r"tests/\S+\.py", text(".ci", "run"))
    assert named and all((ROOT / name).is_file() for name in named)


def test_every_page_is_in_the_navigation_of_the_site():
    pages = re.findall(r"([\w-]+\.md)$", text("mkdocs.yml"), re.MULTILINE)
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_markers_are_explained():
    markers = read_toml(ROOT / "pyproject.toml")["tool"]["pytest"]["ini_options"]["markers"]
    assert markers and all(f"| `{marker.split(':')[0]}` |" in text("CONTRIBUTING.md") for marker in markers)
