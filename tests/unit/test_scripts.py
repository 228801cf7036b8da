"""The measuring scripts run: on toy sizes, and without a GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ovbench.config.load import resolve
from ovbench.regions.provider import open_source

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """Importable, and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.slow
def test_the_gpu_script_on_the_cpu(tmp_path):
    import gpu

    found = gpu.measure(torch.device("cpu"), tmp_path, quick=True, repeats=1)
    assert {row["precision"] for row in found["towers"]} == {"fp32", "fp16", "bf16"}
    assert all(row["windows_per_s"] > 0 and row["share_of_ceiling"] > 0 for row in found["towers"])
    assert [row["batch"] for row in found["images"]] == [0, 8] and found["many_classes"]["seconds"]["cells"] > 0
    assert all(row["images_per_s"] > 0 for row in (*found["images"], *found["methods"], *found["readers"]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path, monkeypatch, capsys):
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    gpu.main()
    assert "no GPU here" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_flops_of_a_tower():
    import gpu

    tower = gpu.Tower("one block", width=4, layers=1, heads=1, patch=16, side=16)  # 2 tokens
    products = 2 * 2 * (4 * 12 + 4 * 4 + 4 * 16 + 16 * 4)  # qkv, output, and the two layers of the feed-forward
    attention = 2 * (2 * 2 * 4 + 2 * 2 * 4)
    assert tower.flops() == products + attention


def test_sqlite_and_lines_give_back_what_they_got(tmp_path):
    import ledger

    row = ledger.measure(30, 3, 1, tmp_path)
    assert row["sqlite full"]["note_s"] > 0 and row["lines"]["ratio_to_lines"] == {"note": 1, "read": 1, "bytes": 1}


SMALL = {
    "cass": "--weights clip=mini --weights dino=mini --side 64 --windows 2 --repeats 1",
    "classes": "--classes 21 --repeat 1 --out {}/classes.json",
    "engine": "--only loop --only ledger --size 64 96 --repeats 1 --out {}",
    "memory": "--size 100 150 --classes 200",
    "pamr": "--queries 2 --size 50 60 --repeats 1",
    "results_scale": "--sizes 30 20 --out {}/results.json",
    "sweep_scale": "--images 200 --out {}/sweep.json",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_script_measures_something_small(name, tmp_path):
    words = [word.format(tmp_path) for word in SMALL[name].split()]
    done = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d", done.stdout + "".join(path.read_text() for path in tmp_path.glob("*.json")))


def test_every_method_has_region_maps_without_a_download():
    import overhead

    for name in overhead.GOALS:
        given = {"reference": "random"} if name == "reme" else {}
        cell = resolve(name, "voc20", overhead.REGIONS.get(name, {}), given)
        assert not cell.regions or not open_source(cell.regions)[1].missing(), name


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kinds"), [("maskclip", {"clip"}), ("talk2dino", {"dinov2"})])
def test_overhead_is_over_the_towers_that_ran(method, kinds):
    import overhead

    task = overhead.on_mini(method, 1)
    row = overhead.measure(method, task, 1)
    assert {kind for kind, _ in row["forwards_on"]} == kinds
    assert row["whole"]["cpu_s"] > 0 and row["ratio"]["cpu_s"] > 0 and row["reached"] in (True, False)


@pytest.mark.slow
def test_the_coverage_of_intervals_is_tallied():
    import interval_coverage as script
    import numpy as np

    rng = np.random.default_rng(0)
    world = script.draw_world(20, rng)
    runs = script.draw_images(world, 400, 2, rng)
    assert all((run.intersection.toarray() <= run.union.toarray()).all() for run in runs)
    tally = script.Tally()
    assert script.simulate(20, 100, runs, 4, 2, rng, tally) == 0
    row = tally.row()
    assert row["samples"] == {"jackknife": 4, "difference": 4, "percentile": 2, "fixed": 2, "basic": 2, "bca": 2}
    assert row["excludes_its_estimate_percent"]["jackknife"] == 0 and row["half_width_points"] > 1


def test_a_bank_is_searched_in_three_forms(tmp_path):
    import bank

    found = bank.measure(tmp_path, rows=600, width=64, regions=3)
    for name in ("keys", "flat", "ivfpq"):
        assert found[name]["image_seconds"] >= 0 and found[name]["peak_bytes_over_the_start"] < 1 << 28
    assert found["flat"]["file_bytes"] > 600 * 64 * 4 > found["keys"]["file_bytes"] > 600 * 64 * 2
