"""`ovbench plot` on two short runs: every kind in both formats, and what cannot be drawn."""

import shutil

import pytest
from PIL import Image

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def records(ovbench, runs):
    if not list(runs.glob("*.json")):
        assert ovbench("eval", "-m", "clip", "-m", "maskclip", "-d", "mini", "--limit", 2, "--out", runs).code == 0
    return sorted(runs.glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "heatmap", "cost", "ablation"])
def test_every_kind_as_png_and_the_same_svg_twice(ovbench, records, tmp_path, kind):
    done = ovbench("plot", kind, *records, "--out", tmp_path / "a.png")
    assert done.code == 0, done.err
    assert Image.open(tmp_path / "a.png").size[0] == 1200
    for name in ("a.svg", "b.svg"):
        assert ovbench("plot", kind, *records, "--out", tmp_path / name).code == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.slow
def test_what_cannot_be_drawn(ovbench, records, tmp_path):
    refused = ovbench("plot", "heatmap", records[0], "--out", tmp_path / "a.gif")
    assert refused.code == 2 and "use .png, .svg, .pdf" in refused.err
    (tmp_path / "empty").mkdir()
    nothing = ovbench("plot", "heatmap", tmp_path / "empty", "--out", tmp_path / "a.png")
    assert nothing.code == 3 and "no record" in nothing.err
    copies = [shutil.copy(records[0], tmp_path / f"{number}.json") for number in range(7)]
    many = ovbench("plot", "classes", *copies, "--out", tmp_path / "a.png")
    assert many.code == 2 and "too many" in many.err
    assert not (tmp_path / "a.png").exists()
