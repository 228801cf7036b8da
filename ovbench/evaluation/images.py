"""Open the images of a request, and find the cells that have the same features; all without torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from ovbench.config.load import Cell
from ovbench.config.official import published_label_rule
from ovbench.data.card import Card
from ovbench.data.dataset import Dataset, open_dataset
from ovbench.evaluation.request import Job


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


def features_key(cell: Cell, dataset: Dataset) -> tuple[Any, ...]:
    """Return what the features of a cell's images depend on, besides the device.

    Cells with equal keys run together: all is equal except dataset, class names, scale and threshold.
    """
    protocol = dataclasses.replace(cell.protocol, vocabulary="", logit_scale=1.0, prob_thd=0.0)
    images = tuple(item.image_path for item in dataset.items)
    return cell.method, cell.params, cell.backbones, cell.regions, protocol, images
