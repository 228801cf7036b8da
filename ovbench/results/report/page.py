"""The HTML page about several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ovbench.results.record_files import RecordFile
from ovbench.results.report.error_images import ErrorImage, RelabelOptions, label_again
from ovbench.results.report.page_data import input_data, prediction_data, run_data
from ovbench.results.report.ranking import ImageScores, rank_images
from ovbench.results.report.rerun_command import command_of
from ovbench.results.report.runs import ReportRun, notes_of
from ovbench.results.report.template import render
from ovbench.results.run_names import run_details

MOST_COMPARED = 3  # runs of one benchmark; with more, every run has only its own worst images
SHOWN_ELSEWHERE = ("counts", "per_class", "metrics", "failed")  # fields of a record that are not settings or versions


def build_page(runs: Sequence[ReportRun], images: int, options: RelabelOptions) -> bytes:
    """Build the HTML file.

    Problems, such as images that cannot be labelled again, are added to the notes of the runs and shown on the page.

    Args:
        runs: The runs.
        images: Number of worst images of each run to show.
        options: How to label these images again.
    """
    ranked = [rank_images(run.counts, len(run.classes)) for run in runs]
    orders = [np.lexsort((np.arange(len(found.loss)), -found.loss)).tolist() for found in ranked]
    pictures = _pictures(runs, orders, images, options)
    store = _Store()
    parts = []
    details = run_details([RecordFile(run.path, run.record) for run in runs])
    for run, order, found, made, detail in zip(runs, orders, ranked, pictures, details, strict=True):
        known = {picture.image: store.add(run, picture) for picture in made}
        data = store.put(run_data(run, order, found, known), "run")
        parts.append({"shown": _shown(run, found, detail), "data": data})
    return render(parts, notes_of(runs), store.elements, _best(runs)).encode()


def _best(runs: Sequence[ReportRun]) -> int:
    """Return the position of the run with the highest mIoU; complete runs come before partial ones."""
    scores = [(not run.partial, run.record["metrics"]["mIoU"] or 0.0) for run in runs]
    return scores.index(max(scores))


class _Store:
    """The JSON documents of the page by element id; an image of several runs is stored once."""

    def __init__(self) -> None:
        self.elements: dict[str, dict[str, Any]] = {}
        self._inputs: dict[tuple[str, ...], str] = {}

    def put(self, value: dict[str, Any], kind: str) -> str:
        name = f"{kind}-{len(self.elements)}"
        self.elements[name] = value
        return name

    def add(self, run: ReportRun, picture: ErrorImage) -> dict[str, Any]:
        """Store an image of a run and return its entry for the document of the run."""
        key = (run.record["cell"]["dataset"], run.record["dataset"]["label_rule"], picture.image)
        if key not in self._inputs:
            self._inputs[key] = self.put(input_data(picture.input), "input")
        return {"element": self.put(prediction_data(picture, self._inputs[key]), "picture")}


def _pictures(
    runs: Sequence[ReportRun], orders: Sequence[Sequence[int]], images: int, options: RelabelOptions
) -> list[list[ErrorImage]]:
    due = _due(runs, [[run.ids[n] for n in order[:images]] for run, order in zip(runs, orders, strict=True)])
    total, hidden = sum(map(len, due)), None if any(due) else True
    with tqdm(total=total, desc="pictures", unit="image", leave=False, disable=hidden) as bar:
        return [label_again(run, ids, options, bar.update) if ids else [] for run, ids in zip(runs, due, strict=True)]


def _due(runs: Sequence[ReportRun], worst: Sequence[list[str]]) -> list[list[str]]:
    """Return the images of each run to show: a few runs of one benchmark show the worst images of all, to compare."""
    alike: dict[tuple[str, str], list[int]] = {}
    for number, run in enumerate(runs):
        alike.setdefault((run.record["cell"]["dataset"], run.record["dataset"]["label_rule"]), []).append(number)
    due = [list(ids) for ids in worst]
    for members in alike.values():
        if len(members) <= MOST_COMPARED:
            union = dict.fromkeys(image for number in members for image in worst[number])
            for number in members:
                own, counted = worst[number], set(runs[number].ids)
                due[number] = [*own, *(image for image in union if image in counted and image not in own)]
    return due


def _shown(run: ReportRun, ranked: ImageScores, detail: str) -> dict[str, Any]:
    """Return the content of the page about a run that needs no script."""
    record, data, metrics = run.record, run.record["dataset"], run.record["metrics"]
    return {
        "name": run.name,
        "method": record["cell"]["method"],
        "dataset": record["cell"]["dataset"],
        "changed": detail,
        "partial": run.partial,
        "images": data["images"],
        "split_images": data["split_images"],
        "classes": len(run.classes),
        "metrics": metrics,
        "started": record["time"]["started"],
        "seconds": record["time"].get("seconds", {}).get("label"),
        "file": run.path.name,
        "command": command_of(record),
        "provenance": _provenance(record),
    }


def _provenance(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return groups of settings and facts with dotted names."""
    plain: dict[str, Any] = {}
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for key, value in record.items():
        if key in SHOWN_ELSEWHERE:
            continue
        if key == "cell":
            plain |= {k: v for k, v in value.items() if not isinstance(v, dict)}
            groups += [(name, _leaves(part)) for name, part in value.items() if isinstance(part, dict) and part]
        elif isinstance(value, dict):
            groups.append((key, _leaves({k: v for k, v in value.items() if k != "classes"})))
        else:
            plain[key] = value
    return [("record", _leaves(plain)), *groups]


def _leaves(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", _text(value)))
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return str(value) if value != "" else '""'
