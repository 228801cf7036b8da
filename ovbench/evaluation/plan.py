"""Resolve a request for methods and datasets to cells, and check everything before the run."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ovbench.backbones.build import missing_weights, official_weights
from ovbench.backbones.hub import require_connection
from ovbench.config.backbone_spec import toy_note
from ovbench.config.load import Cell
from ovbench.config.nearest_published import NearestPublished, nearest_published
from ovbench.config.schema import as_in_file
from ovbench.config.setting_changes import with_official
from ovbench.config.suites import SuiteRow
from ovbench.data.dataset import Dataset
from ovbench.data.descriptions import stand_in
from ovbench.evaluation.distributed import ProcessGroup, Shard
from ovbench.evaluation.images import chosen_images, corrupted, features_key, open_split
from ovbench.evaluation.queries import CellQueries, cell_queries
from ovbench.evaluation.record import Arguments
from ovbench.evaluation.request import Job, check_request, like_of, other_counts
from ovbench.inference.precision import FEATURE_BUDGET, FP32, Execution, choose_batch
from ovbench.inference.steps import refuse_small_crop
from ovbench.methods.base import Method
from ovbench.regions.base import open_source
from ovbench.regions.official_files import official_regions
from ovbench.utils import provenance as env
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.registry import METHODS, find_backbone
from ovbench.utils.text import size_text


@dataclass(frozen=True)
class PlannedCell:
    """A cell whose settings, vocabulary and files are checked.

    Attributes:
        cell: The resolved settings.
        dataset: The images, of the subset if there is one.
        queries: The queries of each class, and distractors.
        device: Device of the networks.
        limit: Number of first images; None for all.
        shard: The shard; None for all images.
        label: Label of the suite's row.
        execution: Precision, compilation and batch size.
        split_images: Number of images of the whole split.
        split_sha256: Hash of the image ids of the whole split.
        arguments: The arguments as passed.
        metrics: Names of other counts to store than those of pixels.
        cost: Whether to measure the cost of labelling, for which a cell runs alone.
    """

    cell: Cell
    dataset: Dataset
    queries: CellQueries
    device: str
    limit: int | None = None
    shard: Shard | None = None
    label: str = ""
    execution: Execution = FP32
    split_images: int = 0
    split_sha256: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    cost: bool = False

    @property
    def wanted(self) -> list[str]:
        """Return the ids of the images of the record, in split order."""
        return self.all_image_ids if self.shard is None else self.shard.take(self.all_image_ids)

    @property
    def wanted_numbers(self) -> list[int]:
        """Return the positions of these images in the split."""
        numbers = list(range(len(self.dataset.items))[: self.limit])
        return numbers if self.shard is None else self.shard.take(numbers)

    @property
    def all_image_ids(self) -> list[str]:
        """Return the ids of the images of all shards."""
        return [item.id for item in self.dataset.items][: self.limit]

    def has_same_features(self, other: PlannedCell) -> bool:
        """Return whether both cells label the same images from the same features, so that they can run together.

        All must be equal except dataset, queries, prompts, scale and threshold.
        """
        return not (self.cost or other.cost) and self._features_key() == other._features_key()

    def _features_key(self) -> tuple:
        return features_key(self.cell, self.dataset), self.device, self.wanted, self.metrics

    def describe(self) -> str:
        """Return one line for the plan that is printed before the run."""
        backbones = "".join(f", {name} {spec}" for name, spec in self.cell.backbones.items())
        shard = f" (shard {self.shard.number}/{self.shard.of})" if self.shard else ""
        what = f"{self.cell.method} on {self.cell.dataset}, {len(self.wanted)} images{shard}"
        label = f"{self.label}: " if self.label else ""
        regions = f", regions {self.cell.regions['source']}" if self.cell.regions else ""
        where = f", on {self.device}"
        if self.device != "cpu" and METHODS.declaration(self.cell.method).needs.join:
            where += f" (up to {size_text(FEATURE_BUDGET)} for the features of all windows, the rest in host memory)"
        deviations = self.published.sentence()
        return f"{label}{what}{backbones}{regions}{where}" + (f"; {deviations}" if deviations else "")

    @functools.cached_property
    def published(self) -> NearestPublished:
        """Return the nearest published run and how this one deviates from it."""
        protocol = self.cell.protocol
        descriptions = stand_in(protocol.descriptions, self.queries.classes, self.dataset.card.background)
        plain = self.cell.as_dict()
        cell = with_official(plain, official_weights(self.cell.backbones), official_regions(plain["regions"]))
        return nearest_published(cell, self.dataset.label_rule, descriptions, self.queries.given)

    @property
    def note(self) -> str:
        """Return a warning for readers of the scores, or ""."""
        return "" if self.dataset.card.generator else toy_note(self.cell.backbones)


def plan(
    job: Job, processes: ProcessGroup, only: Sequence[int] | None = None, *, fetch: bool = True
) -> list[PlannedCell]:  # fmt: skip
    """Resolve every cell and check the request before the run.

    Args:
        job: The request.
        processes: The processes of the run.
        only: Positions of the cells that run here; None for all.
        fetch: Whether to check and download weights.

    Returns:
        One planned cell per method and dataset, or per row of the suite.

    Raises:
        UsageError: If the request is wrong.
        InputError: If files of datasets or weights are missing.
    """
    rows, cards, cells, shard = check_request(job)
    if only is not None:
        rows, cells = [rows[number] for number in only], [cells[number] for number in only]
        cards = {row.dataset: cards[row.dataset] for row in rows}
    device = env.choose_device(job.device, processes.local_rank)
    metrics = other_counts(job.metrics)
    for cell in cells:
        _refuse_small_crop(cell)
        _refuse_closed_class(cell, job)
    if processes.is_main:
        splits = {card.name: open_split(card, job) for card in cards.values()}
    processes.barrier()  # one process writes a generated dataset
    if not processes.is_main:
        splits = {card.name: open_split(card, job) for card in cards.values()}
    datasets = {name: chosen_images(split, job) for name, split in splits.items()}
    if fetch:
        _require_files(cells)
    return [
        PlannedCell(
            cell,
            corrupted(datasets[cell.dataset], cell),
            cell_queries(cell, datasets[cell.dataset].card, job.classes),
            device,
            job.limit,
            shard,
            row.label,
            Execution(job.precision, job.compiled, choose_batch(job.batch, device)),
            len(splits[cell.dataset]),
            splits[cell.dataset].ids_sha256,
            _arguments(job, row, shard, like_of(cards[row.dataset], job)),
            metrics,
            job.cost,
        )
        for cell, row in zip(cells, rows, strict=True)
    ]


def _arguments(job: Job, row: SuiteRow, shard: Shard | None, like: str | None) -> dict[str, Any]:
    """Return the request for one cell, see `ovbench.evaluation.record.Arguments`."""
    asked = Arguments(
        method=row.method, dataset=row.dataset, suite=job.suite, row=row.label or None, protocol=job.protocol,
        like=like, settings=as_in_file(row.overrides), weights=row.weights, label_rule=job.label_rule, limit=job.limit,
        shard=f"{shard.number}/{shard.of}" if shard else None, subset=str(job.subset) if job.subset else None,
        classes=str(job.classes) if job.classes else None,
        device=job.device, precision=job.precision, compile=job.compiled, batch=job.batch,
        metrics=list(other_counts(job.metrics)),
    )  # fmt: skip
    return asked.model_dump()


def _refuse_closed_class(cell: Cell, job: Job) -> None:
    """Refuse what only a method of ovbench gives: a class of mmsegmentation runs in its own process."""
    asked = ["--metrics calibration"] * ("calibration" in other_counts(job.metrics)) + ["--cost"] * job.cost
    asked += ["--save-predictions confidence"] * (job.save_predictions == "confidence")
    if asked and METHODS.load(cell.method).pipeline != Method.pipeline:
        raise UsageError(
            f"{cell.method} shows neither its class probabilities nor its networks", where=asked[0],
            fix=f"leave {' and '.join(asked)} out, or choose another method",
        )  # fmt: skip


def _require_files(cells: list[Cell]) -> None:
    """Check the weights of backbones and region sources, and download them if necessary.

    Raises:
        InputError: If files are missing: their list, and for region maps how else to get them.
    """
    missing: dict[str, tuple[str, list[str]]] = {}
    for cell in cells:
        name, source = open_source(cell.regions) if cell.regions else ("", None)
        if source is not None and source.cached and (absent := source.missing()):
            missing.setdefault(name, (cell.dataset, absent))
    for name, (_, absent) in missing.items():
        logging.getLogger("ovbench").warning("the region maps of %s need %s", name, ", ".join(absent))
    try:
        require_weights(cells)
    except InputError as error:
        if not missing:
            raise
        name, (dataset, _) = next(iter(missing.items()))
        fix = (
            "or compute the region maps on a machine that has them and copy the cache: ovbench masks build "
            f"--dataset {dataset} --regions {name}; or read maps computed elsewhere: --set regions=precomputed "
            "--set regions.folder=DIR; or choose another source, a deviation from the published row: "
            "--set regions=felzenszwalb"
        )
        raise InputError(error.what, where=error.where, fix=f"{error.fix}; {fix}" if error.fix else fix) from None


def require_weights(cells: Iterable[Cell]) -> None:
    """Check that all weights of the cells are on this machine or can be downloaded, and download those of regions.

    Raises:
        InputError: With the list of all missing files, or for backbones that do not fit together.
    """
    cells = list(cells)
    sources = [open_source(cell.regions)[1] for cell in cells if cell.regions]
    absent: list[str] = []
    for cell in cells:
        entry = METHODS.load(cell.method)
        if cell.backbones:
            entry.check_specs(cell.backbones)
        absent += missing_weights(cell.backbones, entry.__module__)
    absent += [name for source in sources for name in source.missing()]
    if absent:
        from huggingface_hub import constants

        require_connection(constants.ENDPOINT, list(dict.fromkeys(absent)))
    for source in sources:
        source.fetch()


def _refuse_small_crop(cell: Cell) -> None:
    """Refuse windows that are smaller than a patch of the tower that reads the queries, if its name tells the patch."""
    entry = METHODS.load(cell.method)
    name = next((n for n in (getattr(entry, "reads", ""), getattr(entry, "sees", "")) if n in cell.backbones), "")
    spec = cell.backbones.get(name)
    patch = find_backbone(name, entry.__module__).patch(spec) if spec else None
    refuse_small_crop(cell.protocol, patch or 0, cell.dataset)
