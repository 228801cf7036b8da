"""The published figures: unique keys, percentages, known names, and averages that are the means of their rows."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from ovbench.data.card import list_cards
from ovbench.results.published import published_results
from ovbench.utils.paths import shipped

FOLDER = shipped("results", "published")
KEYS = dict(re.findall(r"^\| (\w+\.csv) \| .* \| ([\w +]+) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE))
POSTPROCESS = {
    "none", "pamr", "densecrf", "sam-masks", "superpixels", "panoptic-cut", "mask-refinement", "pixel-propagation"
}  # fmt: skip


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert found, name
    return found


def test_every_file_is_explained():
    assert set(KEYS) == {path.name for path in Path(FOLDER).glob("*.csv")}


@pytest.mark.parametrize("name", sorted(KEYS))
def test_keys_are_unique_and_nothing_is_ragged(name):
    found, fields = rows(name), KEYS[name].split(" + ")
    assert not any(None in row or None in row.values() for row in found)
    assert not [key for key, n in Counter(tuple(row[f] for f in fields) for row in found).items() if n > 1]


def test_results_are_percentages_of_known_benchmarks_with_a_source():
    known = set(list_cards())
    assert published_results()
    for row in published_results():
        assert 0 < float(row.value) < 100 and row.metric == "mIoU", row
        assert row.benchmark in known, row
        assert row.source and row.reported_by and row.method and row.variant, row
        assert row.group in ("training-free", "weakly-supervised", "trained"), row
        assert row.postprocess in POSTPROCESS, row


@pytest.mark.parametrize("name", ["mess.csv", "other_metrics.csv", "frontier.csv"])
def test_other_files_hold_percentages(name):
    assert all(0 <= float(row["value"]) <= 100 for row in rows(name))


def test_quantities_of_ablations_and_efficiency_are_numbers():
    for name in ("ablations.csv", "efficiency.csv"):
        assert all(float(row["value"]) == float(row["value"]) for row in rows(name))


def test_a_printed_average_is_the_mean_of_its_row_where_the_file_says_so():
    values = defaultdict(dict)
    for row in published_results():
        values[row.reported_by, row.method, row.variant, row.postprocess][row.benchmark] = row.value
    verdicts = Counter()
    for average in rows("averages.csv"):
        row = values[average["reported_by"], average["method"], average["variant"], average["postprocess"]]
        parts = [Fraction(row[name]) for name in average["benchmarks"].split()]
        mean, printed = sum(parts) / len(parts), Fraction(average["printed"])
        assert len(parts) == int(average["n"])
        assert abs(mean - Fraction(average["computed"])) <= Fraction(1, 2000), average
        unit = Fraction(1, 10 ** -Decimal(average["printed"]).as_tuple().exponent)
        exact = abs(mean - printed) <= unit / 2
        assert exact == (average["exact_rounding"] == "yes"), average
        verdicts[exact, average["explainable_by_input_rounding"] == "yes"] += 1
    assert verdicts == {(True, True): 267, (False, True): 10, (False, False): 10}


def test_the_frontier_follows_from_the_results():
    known = {(row.method, row.variant, row.benchmark, float(row.value)) for row in published_results()}
    for row in rows("frontier.csv"):
        assert (row["method"], row["variant"], row["benchmark"], float(row["value"])) in known, row
