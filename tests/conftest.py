"""Shared by all tests: no test sees the developer's own data, configuration or cache."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SHARED = Path(__file__).parents[2] / "shared"
if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side; torch, which reads it, is not imported yet
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``-n``, a file's tests run in one process, in order: what they share is made once, not in every process."""
    if config.getvalue("dist") != "load":
        return None  # as the command line says
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # the last files are short
    return LoadFileScheduling(config, log)


gc.disable()  # imports leave next to no garbage


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """``quick(n)``: mark the members of a parametrised test ``slow``, but for `n` spread over the list."""
    families: dict[tuple, list] = {}
    for item in items:
        if item.get_closest_marker("quick"):
            families.setdefault((item.path, item.originalname), []).append(item)
    for members in families.values():
        (n,) = members[0].get_closest_marker("quick").args
        kept = {i * len(members) // n for i in range(n)}
        for i, item in enumerate(members):
            if i not in kept:
                item.add_marker("slow")


def pytest_collection_finish():
    """Leave the hundred thousands of objects that imports made out of every later garbage collection."""
    gc.freeze()
    gc.set_threshold(20_000)  # the default of some hundred objects is for programs that leave cycles
    gc.enable()


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory) -> Path:
    """One cache for the session and all its pytest-xdist workers, so that `mini` is drawn once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"


@pytest.fixture(autouse=True)
def own_places(monkeypatch, tmp_path_factory, session_cache):
    """Empty configuration, no data, the cache of the session."""
    monkeypatch.delenv("OVBENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
    monkeypatch.setenv("OVBENCH_CACHE", str(session_cache))
    monkeypatch.setattr(os, "fsync", lambda number: None)  # no test cuts the power


@pytest.fixture(scope="session")
def drawn_mini(session_cache) -> Path:
    """The folder of `mini`; two workers do not draw it at once."""
    from filelock import FileLock

    from ovbench.data.card import load_card
    from ovbench.data.dataset import open_dataset

    with pytest.MonkeyPatch.context() as patch, FileLock(session_cache.with_name("mini.lock")):
        patch.setenv("OVBENCH_CACHE", str(session_cache))
        return open_dataset(load_card("mini")).items[0].image_path.parents[2]


@pytest.fixture
def own_mini(drawn_mini, session_cache, monkeypatch, tmp_path) -> Path:
    """A copy of `mini` that a test may damage, in a cache of its own but for the query vectors."""
    cache = tmp_path / "own-cache"
    copy = shutil.copytree(drawn_mini, cache / "generated" / drawn_mini.name)
    (session_cache / "text").mkdir(exist_ok=True)
    (cache / "text").symlink_to(session_cache / "text", target_is_directory=True)
    monkeypatch.setenv("OVBENCH_CACHE", str(cache))
    return copy


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
def ovbench(capsys, monkeypatch, request):
    """``ovbench("list", "methods")`` runs the command in this process: exit code, stdout, stderr, stdout as JSON."""
    from ovbench.__main__ import main

    def run(*arguments):
        if any("mini" in str(word) for word in arguments):
            request.getfixturevalue("drawn_mini")  # two workers do not draw it at once
        monkeypatch.setattr(sys, "argv", ["ovbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return SimpleNamespace(
            code=stopped.value.code, out=printed.out, err=printed.err, json=lambda: json.loads(printed.out)
        )

    return run
