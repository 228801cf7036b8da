"""Shared by all tests: no test sees the developer's own data, configuration or cache."""

from __future__ import annotations

from pathlib import Path

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
