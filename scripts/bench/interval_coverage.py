"""Simulate the coverage of the 95 % interval of mIoU; writes results/benchmarks/interval_coverage.json.

python scripts/bench/interval_coverage.py

A population of images is drawn. The frequencies of classes have a long tail (Zipf, by type of image); an image has two
to ten classes with correlated sizes, difficulty and errors. Most missed pixels get another class of the image, the
others one of a few similar classes. The IoU of the population is the truth. Samples are drawn with replacement, and an
interval should contain the mean of the true IoU over the classes of the sample. The jackknife of ovbench is compared
with bootstraps of 300 resamples: percentiles with the classes of each resample ("percentile") or a fixed set of classes
("fixed"), and the basic form and BCa with a fixed set. "difference" is the paired interval of a second run with errors
on the same images.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array, vstack
from scipy.stats import norm

from ovbench.metrics.interval import jackknife, miou_interval, paired_difference
from ovbench.metrics.stacked import ImageCounts
from ovbench.utils.files import write_json

CLASSES = {20: 2, 150: 8, 847: 10}  # and how many of them an image has on average
IMAGES = (50, 200, 1000, 5000)
CHUNK = 2000
RESAMPLES = 300


class World(NamedTuple):
    """The parameters of a population.

    ``log_share`` is float64 (S, C), by type of image; ``size`` and ``quality`` are float64 (2, C), by run; ``mistaken``
    are the similar classes, int64 (C, 3).
    """

    log_share: np.ndarray
    size: np.ndarray
    quality: np.ndarray
    mistaken: np.ndarray


def draw_world(classes: int, rng: np.random.Generator) -> World:
    frequency = 1 / np.arange(1, classes + 1)
    quality = rng.normal(0.3, 1.3, classes)
    return World(
        np.log(frequency) + rng.normal(0, 1.5, (max(3, classes // 10), classes)), np.exp(rng.normal(0, 1, classes)),
        np.stack([quality, quality + rng.normal(0.1, 0.4, classes)]), rng.integers(0, classes, (classes, 3)),
    )  # fmt: skip


def draw_images(world: World, count: int, per_image: int, rng: np.random.Generator) -> list[ImageCounts]:
    """Return the counts of both runs."""
    scenes, classes = world.log_share.shape
    number = np.minimum(1 + rng.poisson(per_image - 1, count), classes)
    order = np.argsort(-(world.log_share[rng.integers(0, scenes, count)] + rng.gumbel(size=(count, classes))), 1)
    image, place = np.nonzero(np.arange(number.max()) < number[:, None])
    label = order[image, place]
    size = world.size[label] * np.exp(rng.normal(0, 0.8, len(label)))
    pixels = np.maximum(20, 1e5 * size / np.bincount(image, size, count)[image]).astype(np.int64)
    hardness = rng.normal(0, 0.7, count)[image] + rng.normal(0, 0.6, len(label))
    return [_run(world, quality, image, label, pixels, hardness, order, number, rng) for quality in world.quality]


def _run(world, quality, image, label, pixels, hardness, order, number, rng) -> ImageCounts:
    right = 1 / (1 + np.exp(-(quality[label] + hardness + rng.normal(0, 0.5, len(label)))))
    within = order[image, (rng.random(len(label)) * number[image]).astype(int)]
    elsewhere = world.mistaken[label, rng.integers(0, 3, len(label))]
    guess = np.where(rng.random(len(label)) < 0.7, within, elsewhere)
    hit = np.where(guess == label, pixels, (pixels * right).astype(np.int64))
    shape = (len(number), world.log_share.shape[1])

    def table(values: np.ndarray, column: np.ndarray) -> csr_array:
        return csr_array(coo_array((values, (image, column)), shape=shape))

    return ImageCounts(table(hit, label), table(pixels, label) + table(pixels - hit, guess))


def bootstraps(counts: ImageCounts, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Return bootstrap intervals of mIoU."""
    one, images = jackknife(counts), counts.union.shape[0]
    weights = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = (counts.intersection.T @ weights.T).T / (counts.union.T @ weights.T).T
    loose, fixed = np.nanmean(iou, 1), np.where(np.isnan(iou), one.iou, iou)[:, one.known].mean(1)
    low, high = np.quantile(fixed, (0.025, 0.975))
    change = np.asarray(one.change.sum(1)).ravel()
    skew = (change**3).sum() / 6 / (change**2).sum() ** 1.5
    below = norm.ppf(np.clip((fixed < one.miou).mean(), 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    moved = [norm.cdf(below + (below + z) / (1 - skew * (below + z))) for z in (-1.96, 1.96)]
    return {
        "percentile": tuple(np.quantile(loose, (0.025, 0.975))), "fixed": (low, high),
        "basic": (2 * one.miou - high, 2 * one.miou - low), "bca": tuple(np.quantile(fixed, moved)),
    }  # fmt: skip


def take(counts: ImageCounts, rows: np.ndarray) -> ImageCounts:
    return ImageCounts(*(part[rows] for part in counts))


class Tally:
    """How often intervals contain the truth, how often they exclude their estimate, and their width."""

    def __init__(self):
        self.held, self.excluded, self.half = defaultdict(list), defaultdict(int), []

    def add(self, name: str, low: float, high: float, truth: float, estimate: float) -> None:
        self.held[name].append(low <= truth <= high)
        self.excluded[name] += not low <= estimate <= high

    def row(self) -> dict[str, Any]:
        coverage = {name: round(100 * float(np.mean(held)), 1) for name, held in self.held.items()}
        excluded = {name: round(100 * self.excluded[name] / len(held), 1) for name, held in self.held.items()}
        return {"samples": {name: len(held) for name, held in self.held.items()}, "coverage_percent": coverage,
                "excludes_its_estimate_percent": excluded,
                "half_width_points": round(100 * float(np.mean(self.half)), 2) if self.half else None}  # fmt: skip


def simulate(classes: int, images: int, runs: list[ImageCounts], samples: int, others: int, rng, tally: Tally) -> int:
    """Add samples to the tally, the first ``others`` also with bootstraps; return how many have no interval."""
    truth = [jackknife(run).iou for run in runs]
    refused = 0
    for number in range(samples):
        rows = rng.integers(0, runs[0].union.shape[0], images)
        drawn = [take(run, rows) for run in runs]
        known = [jackknife(run).known for run in drawn]
        true = [float(iou[seen].mean()) for iou, seen in zip(truth, known, strict=True)]
        found, gap = miou_interval(drawn[0]), paired_difference(*drawn)
        refused += found.interval is None
        if found.interval:
            tally.add("jackknife", *found.interval[:2], true[0], found.value)
            tally.half.append(found.interval.half)
        if gap.interval:
            tally.add("difference", *gap.interval[:2], true[1] - true[0], gap.miou)
        if number < others:
            for name, bounds in bootstraps(drawn[0], rng).items():
                tally.add(name, *bounds, true[0], found.value)
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=3, help="populations for each number of classes")
    parser.add_argument("--population", type=int, default=60000, help="images in a population")
    parser.add_argument("--samples", type=int, default=120, help="samples of each population and size")
    parser.add_argument("--others", type=int, default=20, help="samples that get bootstraps too")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/interval_coverage.json"))
    chosen = parser.parse_args()
    tallies, refused = defaultdict(Tally), defaultdict(int)
    for classes, per_image in CLASSES.items():
        for world in range(chosen.worlds):
            rng = np.random.default_rng([classes, world])
            drawn = draw_world(classes, rng)
            parts = [draw_images(drawn, CHUNK, per_image, rng) for _ in range(chosen.population // CHUNK)]
            runs = [ImageCounts(*(csr_array(vstack(each)) for each in zip(*run, strict=True)))
                    for run in zip(*parts, strict=True)]  # fmt: skip
            for images in IMAGES:
                scale = 1 if images < 5000 else 2
                refused[classes, images] += simulate(
                    classes, images, runs, chosen.samples // scale, chosen.others // (3 * scale - 2), rng,
                    tallies[classes, images],
                )  # fmt: skip
    start = time.process_time()
    miou_interval(take(runs[0], np.arange(5000)))
    seconds = round(time.process_time() - start, 3)
    rows = [
        {"classes": classes, "images": images, "without_interval": refused[classes, images], **tally.row()}
        for (classes, images), tally in tallies.items()
    ]
    for row in rows:
        print(row["classes"], row["images"], row["without_interval"], row["coverage_percent"], row["half_width_points"])
    settings = {name: getattr(chosen, name) for name in ("worlds", "population", "samples", "others")}
    write_json(chosen.out, {"settings": settings, "seconds_5000_images_847_classes": seconds, "rows": rows})


if __name__ == "__main__":
    main()
