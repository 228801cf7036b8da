"""`ovbench report` on runs over mini: pictures, their number, and what is said where they are not what was counted."""

import json
import re
import shutil

import numpy as np
import pytest

from ovbench.data.card import load_card
from ovbench.evaluation.ledger import LedgerWriter, read_header, read_ledger
from ovbench.evaluation.record import COUNTS, score_fields
from ovbench.metrics.confusion import ClassPixels
from ovbench.utils.files import read_json, write_json

LIMIT = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def runs(ovbench, made):
    if not list(made.glob("*.json")):
        for how in (("maskclip",), ("clip", "--batch", 8)):
            done = ovbench("eval", "-d", "mini", "--limit", LIMIT, "--out", made, "-m", *how)
            assert done.code == 0, done.err
    return made


def record_in(folder, method="maskclip"):
    (path,) = folder.glob(f"{method}-mini-*.json")
    return path


def elements(page, kind):
    """The JSON documents of a page."""
    found = re.findall(rf'<script type="application/json" id="{kind}-\d+">(.*?)</script>', page.read_text())
    return [json.loads(text) for text in found]


@pytest.mark.slow
def test_two_runs_in_one_page(ovbench, runs, tmp_path):
    page = tmp_path / "page.html"
    done = ovbench("report", runs, "--images", 3, "--out", page)
    assert done.code == 0, done.err
    assert f"report: {page}" in done.err and "differ" not in done.err and done.out == ""
    data, pictures, inputs = (elements(page, kind) for kind in ("run", "picture", "input"))
    # both runs have the worst images of both; an image is in the file once
    assert len(data) == 2 and 6 <= len(pictures) == 2 * len(inputs) <= 2 * LIMIT
    assert all(picture["moved"] == 0 for picture in pictures)
    for run in data:
        loss = run["images"]["loss"]
        assert loss == sorted(loss, reverse=True) and len(loss) == LIMIT
        assert [*run["pictures"]][:3] == run["images"]["ids"][:3]
        assert all(file.endswith(".png") for file in run["files"]) and len(run["files"]) == LIMIT
    text = page.read_text()
    assert "ovbench eval -m maskclip -d mini --limit 4" in text and "partial: of 100" in text


@pytest.mark.slow
def test_the_number_of_pictures_bounds_the_file(ovbench, runs, tmp_path):
    sizes = []
    for images in (0, 1, 4):
        page = tmp_path / f"{images}.html"
        assert ovbench("report", record_in(runs), "--images", images, "--out", page).code == 0
        assert len(elements(page, "picture")) == images
        sizes.append(page.stat().st_size)
    assert sizes == sorted(sizes) and sizes[2] - sizes[0] < 4 * 250_000


@pytest.mark.slow
def test_without_a_ledger_there_is_still_a_page(ovbench, runs, tmp_path):
    path = tmp_path / "alone.json"
    shutil.copy(record_in(runs), path)
    done = ovbench("report", path, "--out", tmp_path / "page.html")
    assert done.code == 0 and "no ledger beside the record" in done.err
    (data,) = elements(tmp_path / "page.html", "run")
    assert data["images"]["ids"] == [] and data["perClass"]["iou"]


@pytest.mark.slow
def test_pictures_that_differ_from_the_run_are_told(ovbench, runs, tmp_path):
    """As if the run had been on another machine, with other weights."""
    record = read_json(record_in(runs))
    folder = runs / record["ledger"]
    header = read_header(folder)
    entries = read_ledger(folder, header)
    unlike = next(iter(entries))
    places = entries[unlike].counts.pixels.argsort()[-2:]
    with LedgerWriter(tmp_path / record["ledger"], "0", header) as ledger:
        for image, entry in entries.items():
            if image == unlike:
                entry.counts.pixels[places] += [-7, 7]
            ledger.add(entry)
    total = ClassPixels(*(np.array(record["counts"][name]) for name in COUNTS))
    moved = entries[unlike].counts
    for at, change in zip(places, (-7, 7), strict=True):
        label, guess = int(moved.label[at]), int(moved.predicted[at])
        total.labelled[label] += change
        total.predicted[guess] += change
        total.union[[label, guess] if label != guess else label] += change
        if label == guess:
            total.intersection[label] += change
    record["weights"]["clip"]["sha256"] = "0" * 64
    write_json(tmp_path / "changed.json", {**record, **score_fields(total, record["dataset"]["classes"])})
    done = ovbench("report", tmp_path / "changed.json", "--out", tmp_path / "page.html")
    assert done.code == 0, done.err
    assert "1 of 4 images are not exactly as the run counted them" in done.err and f"in {unlike}" in done.err
    assert 'other weights than the run: "clip"' in done.err
    assert sorted(p["moved"] for p in elements(tmp_path / "page.html", "picture")) == [0, 0, 0, 7]
    assert "not exactly as the run counted" in (tmp_path / "page.html").read_text()


@pytest.fixture
def own_card(drawn_mini, tmp_path):
    """A benchmark of the user's: two drawn scenes under a card of its own."""
    for kind in ("images", "labels"):
        for file in sorted((drawn_mini / kind / "val").iterdir())[:2]:
            (tmp_path / kind).mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / kind)
    (tmp_path / "own.txt").write_text("\n".join(load_card("mini").classes))
    (tmp_path / "own.toml").write_text(
        'title = "own"\nclasses = "own.txt"\n[[layout]]\nimage = "images/{id}.png"\nlabel = "labels/{id}.png"\n'
    )
    return tmp_path / "own.toml"


@pytest.mark.slow
def test_a_card_of_ones_own(ovbench, own_card, tmp_path):
    """The card that the run was given is used while it is there; without it there is a page without pictures."""
    here = ("--data-root", tmp_path)
    small = ("--weights", "clip=mini", "--set", "short_side=224", "--set", "crop=128", "--set", "stride=128")
    done = ovbench("eval", "-m", "clip", "-d", own_card, *here, *small, "--out", tmp_path / "runs")
    assert done.code == 0, done.err
    page = tmp_path / "page.html"
    done = ovbench("report", tmp_path / "runs", *here, "--out", page)
    assert done.code == 0 and [p["moved"] for p in elements(page, "picture")] == [0, 0], done.err
    moved = own_card.rename(tmp_path / "own-1.toml")
    moved.write_text(f'name = "own"\n{moved.read_text()}')
    done = ovbench("report", tmp_path / "runs", *here, "--out", page)
    assert done.code == 0 and not elements(page, "picture")
    assert 'images are not shown: "own" is no benchmark of ovbench; give its card with --card FILE.toml' in done.err
    done = ovbench("report", tmp_path / "runs", *here, "--card", moved, "--out", page)
    assert done.code == 0 and [p["moved"] for p in elements(page, "picture")] == [0, 0]
    (tmp_path / "bad.toml").write_text("title = 1")
    done = ovbench("report", tmp_path / "runs", "--card", tmp_path / "bad.toml", "--out", page)
    assert done.code == 3 and "bad.toml" in done.err


def test_wrong_use(ovbench, tmp_path):
    assert ovbench("report").code == 2
    missing = ovbench("report", tmp_path / "no.json")
    assert missing.code == 3 and "no.json" in missing.err and "Traceback" not in missing.err
    (tmp_path / "other.json").write_text("[]")
    assert ovbench("report", tmp_path / "other.json").code == 3
    assert not (tmp_path / "report.html").exists()
