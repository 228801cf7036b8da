"""Shared by all tests: no test sees the developer's own data, configuration or cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True)
def own_places(monkeypatch, tmp_path_factory):
    """Empty configuration; one cache for the whole session, so that `mini` is drawn once."""
    monkeypatch.delenv("OVBENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real images with labels, which are not in the repository."""
    folder = SHARED / "samples"
    if not folder.is_dir():
        pytest.skip("no sample images beside the checkout (../shared/samples)")
    return folder


@pytest.fixture
def shared_cases() -> Path:
    """Inputs on which this package was wrong once, which are not in the repository."""
    folder = SHARED / "cases"
    if not folder.is_dir():
        pytest.skip("no cases beside the checkout (../shared/cases)")
    return folder


@pytest.fixture
def ovbench(capsys, monkeypatch):
    """``ovbench("list", "methods")`` runs the command in this process: exit code, stdout, stderr, stdout as JSON."""
    from ovbench.__main__ import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ovbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return SimpleNamespace(
            code=stopped.value.code, out=printed.out, err=printed.err, json=lambda: json.loads(printed.out)
        )

    return run
