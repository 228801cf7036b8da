"""The record: the result of a cell as one JSON document of the type `Record` (docs/record.md)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, model_validator

from ovbench.data.sources import read_source
from ovbench.evaluation.scored import (
    COUNTS,
    EXTRA_COUNTS,
    ClassFields,
    Count,
    CountFields,
    MetricFields,
    about,
    expect_score,
    score_fields,
)
from ovbench.metrics.confusion import ClassPixels
from ovbench.metrics.count_names import EXTRA
from ovbench.metrics.extra_counts import table_width
from ovbench.metrics.named import class_list
from ovbench.utils.errors import InputError
from ovbench.utils.files import parse_json, read_json, write_json
from ovbench.utils.typed import STRICT, Typed, validate

BUNDLE, RECORD_MEMBER = ".ovb.zip", "record.json"
EARLIER = "earlier"  # folder below --out for the ledgers and records that --fresh replaces
SCHEMA = 3  # 1: without arguments; 2: without other metrics than mIoU, mAcc and aAcc
BIASED = "an earlier version took percentiles of a bootstrap, which are biased with rare classes; run the cell again"
Text = str | None


class Arguments(Typed):
    """The arguments of the run as passed; with them the run can be repeated. `cell` has the resolved settings."""

    method: str = about("method: a name, `FILE.py:Class` or `module:Class`")
    dataset: str = about("dataset: a name, or the path of a card")
    suite: Text = about("suite that the run is a row of", default=None)
    row: Text = about("label of that row", default=None)
    protocol: str = about('"paper" or "common"', default="paper")
    like: Text = about("benchmark whose settings a dataset of a user has", default=None)
    settings: dict[str, Any] = about("settings by name: texts of `--set`, or typed values", default_factory=dict)
    weights: dict[str, str] = about("backbones by name, as in `--weights`", default_factory=dict)
    label_rule: Text = about("label rule that was asked for", default=None)
    limit: int | None = about("number of images that was asked for, from the first on", default=None)
    shard: Text = about('shard, such as "1/4"', default=None)
    subset: Text = about("file of a subset", default=None)
    classes: Text = about("file of class names", default=None)
    metrics: list[str] = about("other counts that were asked for", default_factory=list)
    device: str = about("device that was asked for", default="auto")
    precision: str = about('"fp32", "fp16" or "bf16"', default="fp32")
    compile: bool = about("whether the networks were compiled", default=False)
    batch: int | None = about("windows in a batch", default=None)


class CellFields(Typed):
    """The cell, fully resolved."""

    method: str = about("method")
    dataset: str = about("name of the dataset's card")
    params: dict[str, Any] = about("parameters of the method")
    protocol: dict[str, Any] = about("how the image reaches the method and how scores become labels")
    backbones: dict[str, str] = about("names of the backbones")
    regions: dict[str, Any] = about("region source and its settings; empty if the method needs no regions")


class DatasetFields(Typed):
    """The scored images and the meaning of their labels."""

    title: str = about("title of the card")
    split: str = about("split")
    split_images: Count = about("images in the split")
    layout: str = about("layout on disk")
    label_rule: str = about('how void pixels count: "correct" or "official"')
    subset_sha256: Text = about("hash of the subset's manifest; null without one")
    classes: list[str] = about("class names in label order")
    background: Count | None = about("index of the background class, null if there is none")
    white: int | None = about("value of 16-bit images that is shown as white", default=None)
    classes_of_interest: list[Count] | None = about(
        "indices of the classes of CoI_mIoU; null for all but the background", default=None
    )
    card: Literal["ovbench", "own"] = about("whether the card ships with ovbench", default="ovbench")
    split_sha256: str = about("hash of the ids of the whole split", default="")
    files: list[str] = about("layout of images and labels on disk", default_factory=list)
    encoding: str = about("name of the encoding of the labels", default="")
    encoding_sha256: str = about("hash of the table from raw values to classes", default="")
    class_list: str = about("name and hash of the user's class list; empty for a list of the dataset", default="")
    distractors: Count = about("queries that no label has; a pixel that gets one is wrong", default=0)
    images: Count = about("images that were scored")
    images_asked_for: Count = about("images that were asked for")
    ids_sha256: str = about("hash of the ids of the images that were scored")
    limit: Count | None = about("number of images that was asked for, null for all", default=None)
    shard: list[Count] | None = about("number of the shard and of all shards, null for all images", default=None)


class WeightFields(Typed):
    """The weights of one backbone."""

    name: str = about("name of the backbone or file")
    sha256: str = about("hash of its tensors")
    official: str | None = about("name of the published weights, if a file has their hash", default=None)


class UseFields(Typed):
    """How a network is used, from its own configuration; null if it is not known."""

    activation: str = about('"gelu" or "quick_gelu"')
    temperature: float | None = about("factor of the cosines, exp(logit_scale) of a CLIP")
    patch: Count | None = about("side of a patch in pixels")
    interpolation: str = about("interpolation with which its publisher resizes images")
    mean: list[float] | None = about("mean of its input by channel, of values in 0..255")
    std: list[float] | None = about("standard deviation of its input by channel")


class DeviationFields(Typed):
    """A setting that differs from the published one."""

    setting: str = about("setting")
    published: Any = about("published value")
    value: Any = about("value of this run")


class PublishedFields(Typed):
    """Comparison with the published runs."""

    official: bool = about("whether there is an official setting of the method on the dataset")
    deviations: list[DeviationFields] = about("what differs from the nearest published run")
    sources: list[str] = about("tables whose figures have exactly these settings")
    remark: str = about("why there is no official setting", default="")


class CostFields(Typed):
    """Cost of labelling an image, measured with `--cost` on the first images, after two that warm up."""

    images: Count = about("images that were measured")
    parameters: Count = about("parameters of the networks, without those of region sources")
    flops: float | None = about("floating-point operations per image by torch's counter, a multiply-add as two")
    half_share: float | None = about("share of `flops` in fp16 or bf16, see `--precision`", default=None)
    latency_s: float = about("median seconds to label one image on its own, without its region map")
    regions_s: float | None = about("median seconds to make its region map; null if the method has none")
    images_per_s: float = about("images per second with the batch of `device`, without region maps")
    peak_device_bytes: Count | None = about("largest memory on the GPU while labelling; null without one")
    peak_host_bytes: Count = about("largest resident memory of the process so far")
    joules: float | None = about("energy per image of the whole GPU by NVML; null where it is not available")
    device: dict[str, Any] = about("device with precision, compilation and batch")


class TimeFields(Typed):
    """All fields that differ between runs with equal counts, besides the arguments."""

    model_config = ConfigDict(**{**STRICT, "extra": "allow"}, frozen=True)
    started: str = about("when the run started that counted the last images, UTC")
    total_s: float = about("seconds of the last run", default=0.0)
    processes: int = about("number of processes", default=1)
    shared_with: list[str] = about("datasets labelled with the same features", default_factory=list)
    peak_memory: dict[str, int | None] = about("largest memory of the last run in bytes", default_factory=dict)
    images_counted_now: Count = about("images that the last run counted", default=0)
    counted: list[dict[str, Any]] = about(
        "runs that counted the images: start, number of images, commit", default_factory=list
    )
    merged_shards: Count = about("number of merged shards", default=0)
    seconds: dict[str, float] = about("seconds of every stage, summed over images", default_factory=dict)


class Record(Typed):
    """The result of one cell."""

    version: Count = about("version of this schema", alias="schema")
    status: Literal["complete", "partial"] = about('"partial" if images are missing or failed')
    arguments: Arguments | None = about("the arguments as passed; schema 1 has none", default=None)
    cell: CellFields = about("method, dataset and all settings, as resolved")
    settings_sha256: str = about("hash of `cell`")
    dataset: DatasetFields = about("what was scored")
    weights: dict[str, WeightFields] = about('weights by backbone; "code": the file of a method that comes from a file')
    use: dict[str, UseFields] = about("how each network is used, by backbone", default_factory=dict)
    files: dict[str, str] = about("hashes of files that settings name, by setting", default_factory=dict)
    code: dict[str, Any] = about("hashes of the code that can change a label, packages", default_factory=dict)
    versions: dict[str, Text] = about("versions of packages")
    git: dict[str, Any] | None = about("commit of the code, and whether it was modified", default=None)
    device: dict[str, Any] = about("device of the last run, with precision, compilation and batch")
    devices: list[dict[str, Any]] = about(
        "all devices that counted images, if they differ (`--mixed-devices`)", default_factory=list
    )
    published: PublishedFields | None = about("comparison with the published runs", default=None)
    approximate: dict[str, Any] = about(
        "approximations that replaced an exact computation, and their measured quality", default_factory=dict
    )
    observed: dict[str, Any] = about(
        "what the method found in the first images of the dataset, such as the share of patches that it repaired",
        default_factory=dict,
    )
    cost: CostFields | None = about("cost of labelling, if it was measured", default=None)
    counts: CountFields = about("pixels by class")
    metrics: MetricFields = about("scores over all classes")
    per_class: list[ClassFields] = about("scores by class")
    failed: dict[str, str] = about("images that could not be scored, with the reason")
    ledger: str = about("folder beside the record with the counts of every image")
    time: TimeFields = about("start, seconds, memory")
    notes: list[str] = about("warning for readers of the scores", default_factory=list)

    @model_validator(mode="after")
    def _same_classes(self) -> Record:
        classes = len(self.dataset.classes)
        columns = {f"counts.{name}": getattr(self.counts, name) for name in COUNTS} | {"per_class": self.per_class}
        for name, values in columns.items():
            if len(values) != classes:
                raise ValueError(f'"{name}" is not of {classes} classes')
        for name in EXTRA:
            found, width = getattr(self.counts, name), table_width(name, classes)
            if found is not None and any(len(getattr(found, column)) != width for column in EXTRA_COUNTS):
                raise ValueError(f'"counts.{name}" is not of {width} columns')
        for number in self.dataset.classes_of_interest or ():
            if number >= classes:
                raise ValueError('"dataset.classes_of_interest" is not of its classes')
        return self

    @model_validator(mode="after")
    def _scores_follow_from_counts(self) -> Record:
        pixels = ClassPixels(*(np.array(getattr(self.counts, name), np.int64) for name in COUNTS))
        if (pixels.union != pixels.predicted + pixels.labelled - pixels.intersection).any():
            raise ValueError('"counts.union" is not predicted + labelled - intersection')
        known = class_list(self.dataset.model_dump())
        expected = score_fields(pixels, self.dataset.classes, known, self._extra_sums())
        for name, value in expected["metrics"].items():
            if name in self.metrics.model_fields_set:
                expect_score(f"metrics.{name}", getattr(self.metrics, name), value)
        for number, (one, right) in enumerate(zip(self.per_class, expected["per_class"], strict=True)):
            expect_score(f"per_class[{number}].iou", one.iou, right["iou"])
            expect_score(f"per_class[{number}].acc", one.acc, right["acc"])
        return self

    def _extra_sums(self) -> dict[str, ClassPixels]:
        found = {name: one for name in EXTRA if (one := getattr(self.counts, name)) is not None}
        sums = {
            name: [np.array(getattr(one, column), np.int64) for column in EXTRA_COUNTS] for name, one in found.items()
        }
        return {name: ClassPixels(hit, p + l - hit, p, l) for name, (hit, p, l) in sums.items()}


class NewerRecordError(InputError):
    """A record of a newer version of ovbench, whose schema is not known."""


def read_record(path: Path) -> dict[str, Any]:
    """Read a record from disk, as JSON data of the type `Record`.

    Raises:
        NewerRecordError: If a newer version of ovbench wrote it.
        InputError: If the file is not a complete record, with the first field that does not fit, or a score is not the
            one that the counts give.
    """
    record = _read_content(path)
    version = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError("not a result record", where=str(path))
    if version > SCHEMA:
        raise NewerRecordError(
            f"a newer version of ovbench wrote the record: its schema is {version}, this version reads up to {SCHEMA}",
            where=str(path), fix="update ovbench",
        )  # fmt: skip
    validate(Record, record, str(path), what="a complete record")
    if version == 1 and record["metrics"].get("mIoU_interval"):
        record["metrics"] |= {"mIoU_interval": None, "mIoU_no_interval": BIASED}
    return record


def is_bundle(path: Path) -> bool:
    """Return whether a file is a record with its ledger, see `ovbench.results.bundle`."""
    return path.name.endswith(BUNDLE)


def _read_content(path: Path) -> Any:
    if not is_bundle(path):
        return read_json(path)
    try:
        return parse_json(read_source(path / RECORD_MEMBER).data)
    except OSError as error:
        raise InputError(f"not a bundle of a record: {error.strerror or error}", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"malformed JSON: {error}", where=str(path)) from None


def read_earlier(path: Path) -> dict[str, Any] | None:
    """Return the record that a run replaces, None if there is none or it is not complete.

    Raises:
        NewerRecordError: If a newer version of ovbench wrote it; it must not be overwritten.
    """
    try:
        return read_record(path)
    except NewerRecordError:
        raise
    except InputError:
        return None


def write_record(path: Path, record: Mapping[str, Any]) -> Path:
    """Write a record; a partial one goes to a file of its own beside a complete one, which stays.

    Args:
        path: Where a complete record goes.
        record: The record.

    Returns:
        The file of the record.

    Raises:
        InputError: If the file cannot be written, or a newer version of ovbench wrote the one that it would replace.
    """
    earlier, beside = read_earlier(path), path.with_name(f"{path.stem}-partial.json")
    if record["status"] == "complete" or earlier is None or earlier["status"] != "complete":
        write_json(path, record)
        beside.unlink(missing_ok=True)
        return path
    images, started = earlier["dataset"]["images"], earlier["time"]["started"][:16].replace("T", " ")
    when = f", {started} UTC" if started else ""
    logging.getLogger("ovbench").warning(
        "this run is partial: the complete record of earlier stays (%s, %d images%s)", path, images, when
    )
    write_json(beside, record)
    return beside


def is_record(found: Any) -> bool:
    """Return whether JSON data is a record, complete or not, and not a baseline or the file of a shard."""
    return isinstance(found, dict) and "schema" in found and "cells" not in found


def warnings_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the notes of records for readers of their scores, each once."""
    return list(dict.fromkeys(note for record in records for note in record.get("notes", ())))


def value_at(record: Mapping[str, Any], name: str, missing: Any = None) -> Any:
    """Return the value under a dotted name such as "dataset.classes"."""
    value: Any = record
    for step in name.split("."):
        value = value.get(step, missing) if isinstance(value, dict) else missing
    return value
