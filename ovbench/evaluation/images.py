"""Open the images of a request, and find the cells that have the same features; all without torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from ovbench.config.load import Cell
from ovbench.config.official import published_label_rule
from ovbench.data.card import Card
from ovbench.data.dataset import Dataset, open_dataset
from ovbench.evaluation.request import Job
from ovbench.utils.errors import UsageError


def open_split(card: Card, job: Job) -> Dataset:
    """Open all images of a dataset, with the label rule of the request."""
    rule = job.label_rule or (published_label_rule(card.name) if job.protocol == "paper" else "correct")
    return open_dataset(card, job.data_root, label_rule=rule)


def chosen_images(split: Dataset, job: Job) -> Dataset:
    """Return the images of the request's subset, or all."""
    if job.subset is None:
        return split
    from ovbench.data.subset import read_manifest

    return read_manifest(job.subset).select(split)


def corrupted(dataset: Dataset, cell: Cell) -> Dataset:
    """Return the dataset with the corruption of a cell.

    Args:
        dataset: The images.
        cell: The settings.

    Raises:
        UsageError: If region maps are read from files, because those are of the images without corruption.
        InputError: If files of the corruption are not installed.
    """
    name = cell.protocol.corrupt
    if not name:
        return dataset
    if cell.regions.get("source") == "precomputed":
        raise UsageError(
            "precomputed region maps are of the images without corruption", where=f"corrupt={name}",
            fix="choose a source that makes the maps, such as --set regions=felzenszwalb",
        )  # fmt: skip
    from ovbench.data.corrupt import corruption_files

    corruption_files(name)
    return dataclasses.replace(dataset, corruption=name)


def features_key(cell: Cell, dataset: Dataset) -> tuple[Any, ...]:
    """Return what the features of a cell's images depend on, besides the device.

    Cells with equal keys run together: all is equal except dataset, queries, prompts, scale and threshold.
    """
    protocol = dataclasses.replace(
        cell.protocol, vocabulary="", templates="", distractors="", logit_scale=1.0, prob_thd=0.0
    )
    images = tuple(item.image_path for item in dataset.items)
    return cell.method, cell.params, cell.backbones, cell.regions, protocol, images
