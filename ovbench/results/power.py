"""Say how many images show a difference, and which subset does, from the ledgers of one or two runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from ovbench.data.cover import cover_classes
from ovbench.metrics.influence import influence
from ovbench.metrics.interval import FEWEST_IMAGES, difference, estimate
from ovbench.metrics.named import Metric, class_list
from ovbench.metrics.power import USUAL_POWER, independent, needed_images, smallest
from ovbench.metrics.similarity import Similarity
from ovbench.results.compare import CountedRun, common_images, counted_images, refuse_without_counts
from ovbench.results.console import plain
from ovbench.utils.errors import InputError


def power_of(
    runs: Sequence[CountedRun], metric: Metric, points: float, seed: int = 0, similarity: Similarity | None = None
) -> dict[str, Any]:
    """Return how many images show a difference, as JSON data with fractions.

    With two runs, the difference is that of the runs on the same images. With one run, the other one is assumed to err
    independently; two real methods err on the same images, so that they need fewer.

    Args:
        runs: One or two runs.
        metric: The metric.
        points: The difference, a fraction.
        seed: Seed of the subset, as of ``ovbench data subset``.
        similarity: Similarity of the classes, for metrics that use it.

    Raises:
        InputError: If the runs cannot be compared, or there is no interval on all images.
    """
    ids = common_images(*runs) if len(runs) == 2 else list(runs[0].counts)
    about = class_list(runs[0].record["dataset"], similarity)
    refuse_without_counts(metric, runs)
    if why := metric.why_not(about):
        raise InputError(why)

    def half(chosen: Sequence[str]) -> tuple[float | None, str]:
        """Return half the width of the interval of the difference on some images, or why there is none."""
        ones = [influence(metric, counted_images(run, chosen), about) for run in runs]
        if len(ones) == 2:
            found = difference(*ones)
        else:
            found = estimate(ones[0]._replace(change=independent(ones[0]), alone=0.0))
        return (None, found.why) if found.interval is None else (found.interval.half, "")

    whole, why = half(ids)
    if whole is None:
        raise InputError(f"no interval on all {len(ids)} images: {why}")
    ones = [influence(metric, counted_images(run, ids), about) for run in runs]
    change = ones[1].change - ones[0].change if len(ones) == 2 else independent(ones[0])
    order = _subset_order(runs[0], ids, about.size, seed)
    size = smallest(lambda n: (half(order[:n])[0] or 1.0) <= points, FEWEST_IMAGES, len(ids))
    chosen = set(order[: size or 0])
    return {
        "metric": metric.name, **({"similarity": similarity.stated} if similarity else {}), "difference": points,
        "images": len(ids), "dataset": runs[0].record["cell"]["dataset"],
        "values": [one.value for one in ones], "half_width": whole,
        "images_for_95": needed_images(change, points),
        "images_for_power": {"power": USUAL_POWER, "images": needed_images(change, points, USUAL_POWER)},
        "subset": None if size is None else {
            "images": size, "seed": seed, "half_width": half(order[:size])[0],
            "ids": [image for image in runs[0].counts if image in chosen],
        },
        "all_images_of_split": len(ids) == runs[0].record["dataset"]["split_images"],
    }  # fmt: skip


def _subset_order(run: CountedRun, ids: Sequence[str], classes: int, seed: int) -> list[str]:
    """Return the images in the order in which ``ovbench data subset`` chooses them from the split."""
    in_split = [image for image in run.counts if image in set(ids)]
    shows = np.zeros((len(in_split), classes), bool)
    for row, image in enumerate(in_split):
        labels = np.unique(run.counts[image].label)
        shows[row, labels[labels < classes]] = True
    return [in_split[n] for n in cover_classes(shows, len(in_split), np.random.default_rng(seed))]


def power_table(found: Mapping[str, Any]) -> Table:
    """Return the table for the terminal, in points."""
    points, paired = 100 * found["difference"], len(found["values"]) == 2
    title = f"{found['metric']} on {plain(found['dataset'])}: a difference of {points:g} points"
    title += f"\n{plain(found['similarity'])}" if "similarity" in found else ""
    title += "" if paired else "\nfrom one run: assuming that the other run errs independently; two runs need fewer"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("quantity")
    table.add_column("value", justify="right")
    if paired:
        first, second = found["values"]
        table.add_row("measured difference", f"{100 * (second - first):+.2f}")
    table.add_row(f"95 % interval on {found['images']} images", f"+-{100 * found['half_width']:.2f}")
    usual = found["images_for_power"]
    table.add_row(f"images until the interval is +-{points:g}", _count(found["images_for_95"]))
    table.add_row(f"images to show a true {points:g} in {100 * usual['power']:.0f} % of cases", _count(usual["images"]))
    subset = found["subset"]
    table.add_row("smallest subset of these images", "none" if subset is None else str(subset["images"]))
    return table


def _count(images: int | None) -> str:
    return "more than 10 million" if images is None else str(images)


def subset_command(found: Mapping[str, Any]) -> str | None:
    """Return the command that makes the manifest of the subset, None if it would choose other images."""
    subset = found["subset"]
    if subset is None or not found["all_images_of_split"]:
        return None
    words = ["ovbench", "data", "subset", found["dataset"], "-n", subset["images"], "--seed", subset["seed"]]
    return shlex.join(map(str, [*words, "--out", "subset.json"]))
