"""The number of images that show a difference, against intervals on drawn images, and the subset that does."""

import json

import numpy as np
import pytest
from report_runs import write_run

from ovbench.data.cover import cover_classes
from ovbench.metrics.confusion import PixelCounts, count_pixels
from ovbench.metrics.influence import influence
from ovbench.metrics.interval import difference
from ovbench.metrics.named import METRICS, MetricClasses
from ovbench.metrics.power import needed_images, smallest
from ovbench.metrics.stacked import CountedImages
from ovbench.results.compare import load_run
from ovbench.results.power import power_of

C = 4
NAMES = ["sky", "grass", "road", "dog"]
MIOU = METRICS["mIoU"]


def drawn(count, accuracy, seed, noise):
    rng, errors = np.random.default_rng(seed), np.random.default_rng([seed, noise])
    found = []
    for _ in range(count):
        label = rng.integers(0, C, (8, 8))
        right = errors.random(label.shape) < accuracy
        found.append(count_pixels(np.where(right, label, errors.integers(0, C, label.shape)), label, C))
    return found


def influences(count, seed=0):
    return [influence(MIOU, CountedImages(drawn(count, 0.6, seed, noise), C), MetricClasses(C)) for noise in (1, 2)]


def test_the_interval_is_as_wide_as_expected_with_that_many_images():
    one, other = influences(400)
    change, wanted = other.change - one.change, 0.01
    count = needed_images(change, wanted)
    assert 300 < count < 5000
    half = difference(*influences(count, 1)).interval.half
    assert half == pytest.approx(wanted, rel=0.15)
    assert needed_images(change, wanted / 2) == pytest.approx(4 * count, rel=0.02)
    # power of 80 %: (1.96 + 0.84)^2 / 1.96^2 times as many
    assert needed_images(change, wanted, 0.8) == pytest.approx(2.042 * count, rel=0.02)
    assert needed_images(np.zeros(40), 0.01) == 10 and needed_images(change, 1e-9) is None


def test_bisection():
    assert smallest(lambda n: n >= 7, 1, 20) == 7 and smallest(lambda n: n >= 21, 1, 20) is None
    assert smallest(lambda n: True, 3, 3) == 3 and smallest(lambda n: True, 3, 2) is None


def test_a_smaller_subset_is_part_of_a_larger_one():
    shows = np.random.default_rng(0).random((30, 5)) < 0.2
    order = cover_classes(shows, 30, np.random.default_rng(3))
    for count in (1, 4, 12):
        assert cover_classes(shows, count, np.random.default_rng(3)) == order[:count]


@pytest.fixture
def records(tmp_path):
    counts = [drawn(80, accuracy, 0, noise) for accuracy, noise in ((0.6, 1), (0.63, 2))]
    return [write_run(tmp_path, one, NAMES, name=f"run{n}") for n, one in enumerate(counts)]


@pytest.mark.slow
def test_power_of_two_records(ovbench, records):
    found = ovbench("power", *records, "--difference", "4", "--json").json()
    before, after = (json.loads(path.read_text())["metrics"]["mIoU"] for path in records)
    assert found["values"] == pytest.approx([before, after]) and found["images"] == 80
    subset = found["subset"]
    ids = subset["ids"]
    assert len(ids) == subset["images"] < 80 and subset["half_width"] <= 0.04 < 1
    runs = [load_run(path) for path in records]
    half = [
        difference(
            *(influence(MIOU, CountedImages([run.counts[i] for i in part], C), MetricClasses(C)) for run in runs)
        ).interval.half
        for part in (ids, list(runs[0].counts))
    ]
    assert half == pytest.approx([subset["half_width"], found["half_width"]])
    assert found["images_for_95"] == pytest.approx(subset["images"], rel=0.5)
    shown = ovbench("power", *records, "--difference", "4")
    assert "measured difference" in shown.out and f"-n {subset['images']} --seed 0" in shown.err
    none = ovbench("power", *records, "--difference", "0.1")
    assert none.code == 0 and "none" in none.out and "subset" not in none.err


@pytest.mark.slow
def test_power_of_one_record_assumes_independent_errors(ovbench, records):
    found = ovbench("power", records[0], "--difference", "5", "--json", "--metric", "fwIoU").json()
    run = load_run(records[0])
    one = influence(METRICS["fwIoU"], CountedImages([*run.counts.values()], C), MetricClasses(C))
    assert found["images_for_95"] == needed_images(np.sqrt(2) * one.change, 0.05)
    assert "from one run: assuming" in ovbench("power", records[0]).out


@pytest.mark.slow
def test_without_an_interval_there_is_no_answer(ovbench, tmp_path, records):
    few = write_run(tmp_path / "few", drawn(5, 0.6, 0, 1), NAMES)
    refused = ovbench("power", few)
    assert refused.code == 3 and "no interval on all 5 images: fewer than 10 images" in refused.err
    other = write_run(tmp_path / "other", [PixelCounts(*(np.array([n]) for n in (0, 0, 9)))] * 12, ["a"])
    assert ovbench("power", records[0], other).code == 3
    assert ovbench("power", records[0], "--difference", "0").code == 2
    assert power_of([load_run(records[0])], MIOU, 1.0)["subset"]["images"] == 10
