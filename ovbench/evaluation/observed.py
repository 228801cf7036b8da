"""What a record has about the method besides its settings: approximations, and what it found in some images."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ovbench.data.dataset import Dataset
from ovbench.inference.pipeline import Pipeline
from ovbench.utils.errors import OvbenchError

IMAGES = 4


def method_facts(pipeline: Pipeline, dataset: Dataset) -> dict[str, Any]:
    """Return the fields "approximate" and "observed" of a record, those that the method has.

    They depend on the first images of the dataset, whichever images are counted, so that all shards have the same.
    """
    facts = {"approximate": pipeline.method.approximations(), "observed": _shares(pipeline, dataset)}
    return {name: found for name, found in facts.items() if found}


def _shares(pipeline: Pipeline, dataset: Dataset) -> dict[str, Any]:
    """Return the fraction of true values of each note in ``observed``, in the first images that can be labelled."""
    names = getattr(pipeline.method, "observed", ())
    if not names:
        return {}
    counts: dict[str, list[int]] = {}

    def note(name: str, value: Any) -> None:
        if name.startswith(names) and isinstance(value, Tensor):
            hits = counts.setdefault(name, [0, 0])
            hits[0] += int(value.sum())
            hits[1] += value.numel()

    images = 0
    for number in range(min(IMAGES, len(dataset.items))):
        try:
            image = dataset.read_image(number)
            pipeline.predictor.label(image, pipeline.regions(image, dataset.items[number].image_path), note)
        except OvbenchError:
            continue  # the run reports it
        images += 1
    found = {}
    for name in names:
        levels = {key: hits for key, hits in counts.items() if key.startswith(name)}
        if total := sum(of for _, of in levels.values()):
            share = sum(hits for hits, _ in levels.values()) / total
            found[name] = {
                "images": images, "share": round(share, 5),
                "by_note": {key: round(hits / of, 5) for key, (hits, of) in levels.items()},
            }  # fmt: skip
    return found
