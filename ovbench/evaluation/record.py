"""The record: the result of a cell as one JSON document of the type `Record` (docs/record.md)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from ovbench.data.sources import read_source
from ovbench.metrics.confusion import ClassPixels, Confusion
from ovbench.metrics.iou import scores
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json, write_json
from ovbench.utils.typed import STRICT, Typed, validate

BUNDLE, RECORD_MEMBER = ".ovb.zip", "record.json"
EARLIER = "earlier"  # folder below --out for the ledgers and records that --fresh replaces
SCHEMA = 2  # 1: without arguments
BIASED = "an earlier version took percentiles of a bootstrap, which are biased with rare classes; run the cell again"
COUNTS = ClassPixels._fields
ROUNDING = 1e-9  # largest difference of a score from the one that its counts give
Count = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Text = str | None


def _about(text: str, **more: Any) -> Any:
    return Field(description=text, **more)


class Arguments(Typed):
    """The arguments of the run as passed; with them the run can be repeated. `cell` has the resolved settings."""

    method: str = _about("method: a name, `FILE.py:Class` or `module:Class`")
    dataset: str = _about("dataset: a name, or the path of a card")
    suite: Text = _about("suite that the run is a row of", default=None)
    row: Text = _about("label of that row", default=None)
    protocol: str = _about('"paper" or "common"', default="paper")
    like: Text = _about("benchmark whose settings a dataset of a user has", default=None)
    settings: dict[str, Any] = _about("settings by name: texts of `--set`, or typed values", default_factory=dict)
    weights: dict[str, str] = _about("backbones by name, as in `--weights`", default_factory=dict)
    label_rule: Text = _about("label rule that was asked for", default=None)
    limit: int | None = _about("number of images that was asked for, from the first on", default=None)
    shard: Text = _about('shard, such as "1/4"', default=None)
    subset: Text = _about("file of a subset", default=None)
    classes: Text = _about("file of class names", default=None)
    device: str = _about("device that was asked for", default="auto")
    precision: str = _about('"fp32", "fp16" or "bf16"', default="fp32")
    compile: bool = _about("whether the networks were compiled", default=False)
    batch: int | None = _about("windows in a batch", default=None)


class CellFields(Typed):
    """The cell, fully resolved."""

    method: str = _about("method")
    dataset: str = _about("name of the dataset's card")
    params: dict[str, Any] = _about("parameters of the method")
    protocol: dict[str, Any] = _about("how the image reaches the method and how scores become labels")
    backbones: dict[str, str] = _about("names of the backbones")
    regions: dict[str, Any] = _about("region source and its settings; empty if the method needs no regions")


class DatasetFields(Typed):
    """The scored images and the meaning of their labels."""

    title: str = _about("title of the card")
    split: str = _about("split")
    split_images: Count = _about("images in the split")
    layout: str = _about("layout on disk")
    label_rule: str = _about('how void pixels count: "correct" or "official"')
    subset_sha256: Text = _about("hash of the subset's manifest; null without one")
    classes: list[str] = _about("class names in label order")
    background: Count | None = _about("index of the background class, null if there is none")
    white: int | None = _about("value of 16-bit images that is shown as white", default=None)
    card: Literal["ovbench", "own"] = _about("whether the card ships with ovbench", default="ovbench")
    split_sha256: str = _about("hash of the ids of the whole split", default="")
    files: list[str] = _about("layout of images and labels on disk", default_factory=list)
    encoding: str = _about("name of the encoding of the labels", default="")
    encoding_sha256: str = _about("hash of the table from raw values to classes", default="")
    class_list: str = _about("name and hash of the user's class list; empty for a list of the dataset", default="")
    distractors: Count = _about("queries that no label has; a pixel that gets one is wrong", default=0)
    images: Count = _about("images that were scored")
    images_asked_for: Count = _about("images that were asked for")
    ids_sha256: str = _about("hash of the ids of the images that were scored")
    limit: Count | None = _about("number of images that was asked for, null for all", default=None)
    shard: list[Count] | None = _about("number of the shard and of all shards, null for all images", default=None)


class WeightFields(Typed):
    """The weights of one backbone."""

    name: str = _about("name of the backbone or file")
    sha256: str = _about("hash of its tensors")


class UseFields(Typed):
    """How a network is used, from its own configuration; null if it is not known."""

    activation: str = _about('"gelu" or "quick_gelu"')
    temperature: float | None = _about("factor of the cosines, exp(logit_scale) of a CLIP")
    patch: Count | None = _about("side of a patch in pixels")
    interpolation: str = _about("interpolation with which its publisher resizes images")
    mean: list[float] | None = _about("mean of its input by channel, of values in 0..255")
    std: list[float] | None = _about("standard deviation of its input by channel")


class DeviationFields(Typed):
    """A setting that differs from the published one."""

    setting: str = _about("setting")
    published: Any = _about("published value")
    value: Any = _about("value of this run")


class PublishedFields(Typed):
    """Comparison with the published runs."""

    official: bool = _about("whether there is an official setting of the method on the dataset")
    deviations: list[DeviationFields] = _about("what differs from the nearest published run")
    sources: list[str] = _about("tables whose figures have exactly these settings")
    remark: str = _about("why there is no official setting", default="")


class CountFields(Typed):
    """Pixels by class."""

    intersection: list[Count] = _about("labelled and predicted as the class")
    union: list[Count] = _about("labelled or predicted as the class")
    predicted: list[Count] = _about("predicted as the class")
    labelled: list[Count] = _about("labelled as the class")


class MetricFields(Typed):
    """Scores, as fractions; null if there is nothing to score."""

    mIoU: Fraction | None = _about("mean IoU over the classes with a score")
    mAcc: Fraction | None = _about("mean accuracy of the classes")
    aAcc: Fraction | None = _about("accuracy over all pixels")
    classes_in_mean: Count = _about("classes in the mean of mIoU")
    mIoU_interval: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None = _about(
        "95 % interval of mIoU, by a jackknife over images; null if it cannot be computed", default=None
    )
    mIoU_no_interval: str = _about("why there is no interval", default="")


class ClassFields(Typed):
    """Scores of one class, as fractions; null if there is nothing to score."""

    name: str = _about("class", alias="class")
    iou: Fraction | None = _about("intersection over union")
    acc: Fraction | None = _about("labelled pixels that are predicted as the class")


class TimeFields(Typed):
    """All fields that differ between runs with equal counts, besides the arguments."""

    model_config = ConfigDict(**{**STRICT, "extra": "allow"}, frozen=True)
    started: str = _about("when the run started that counted the last images, UTC")
    total_s: float = _about("seconds of the last run", default=0.0)
    processes: int = _about("number of processes", default=1)
    shared_with: list[str] = _about("datasets labelled with the same features", default_factory=list)
    peak_memory: dict[str, int | None] = _about("largest memory of the last run in bytes", default_factory=dict)
    images_counted_now: Count = _about("images that the last run counted", default=0)
    counted: list[dict[str, Any]] = _about(
        "runs that counted the images: start, number of images, commit", default_factory=list
    )
    merged_shards: Count = _about("number of merged shards", default=0)
    seconds: dict[str, float] = _about("seconds of every stage, summed over images", default_factory=dict)


class Record(Typed):
    """The result of one cell."""

    version: Count = _about("version of this schema", alias="schema")
    status: Literal["complete", "partial"] = _about('"partial" if images are missing or failed')
    arguments: Arguments | None = _about("the arguments as passed; schema 1 has none", default=None)
    cell: CellFields = _about("method, dataset and all settings, as resolved")
    settings_sha256: str = _about("hash of `cell`")
    dataset: DatasetFields = _about("what was scored")
    weights: dict[str, WeightFields] = _about(
        'weights by backbone; "code": the file of a method that comes from a file'
    )
    use: dict[str, UseFields] = _about("how each network is used, by backbone", default_factory=dict)
    files: dict[str, str] = _about("hashes of files that settings name, by setting", default_factory=dict)
    code: dict[str, Any] = _about("hashes of the code that can change a label, packages", default_factory=dict)
    versions: dict[str, Text] = _about("versions of packages")
    git: dict[str, Any] | None = _about("commit of the code, and whether it was modified", default=None)
    device: dict[str, Any] = _about("device of the last run, with precision, compilation and batch")
    devices: list[dict[str, Any]] = _about(
        "all devices that counted images, if they differ (`--mixed-devices`)", default_factory=list
    )
    published: PublishedFields | None = _about("comparison with the published runs", default=None)
    approximate: dict[str, Any] = _about(
        "approximations that replaced an exact computation, and their measured quality", default_factory=dict
    )
    counts: CountFields = _about("pixels by class")
    metrics: MetricFields = _about("scores over all classes")
    per_class: list[ClassFields] = _about("scores by class")
    failed: dict[str, str] = _about("images that could not be scored, with the reason")
    ledger: str = _about("folder beside the record with the counts of every image")
    time: TimeFields = _about("start, seconds, memory")
    notes: list[str] = _about("warning for readers of the scores", default_factory=list)

    @model_validator(mode="after")
    def _same_classes(self) -> Record:
        classes = len(self.dataset.classes)
        columns = {f"counts.{name}": getattr(self.counts, name) for name in COUNTS} | {"per_class": self.per_class}
        for name, values in columns.items():
            if len(values) != classes:
                raise ValueError(f'"{name}" is not of {classes} classes')
        return self

    @model_validator(mode="after")
    def _scores_follow_from_counts(self) -> Record:
        pixels = ClassPixels(*(np.array(getattr(self.counts, name), np.int64) for name in COUNTS))
        if (pixels.union != pixels.predicted + pixels.labelled - pixels.intersection).any():
            raise ValueError('"counts.union" is not predicted + labelled - intersection')
        expected = score_fields(pixels, self.dataset.classes)
        for name, value in expected["metrics"].items():
            _expect_score(f"metrics.{name}", getattr(self.metrics, name), value)
        for number, (one, right) in enumerate(zip(self.per_class, expected["per_class"], strict=True)):
            _expect_score(f"per_class[{number}].iou", one.iou, right["iou"])
            _expect_score(f"per_class[{number}].acc", one.acc, right["acc"])
        return self


def _expect_score(key: str, found: float | None, expected: float | None) -> None:
    if found is expected or (found is not None and expected is not None and abs(found - expected) <= ROUNDING):
        return
    raise ValueError(f'"{key}" is {found}, but the counts give {expected}')


class NewerRecordError(InputError):
    """A record of a newer version of ovbench, whose schema is not known."""


def score_fields(pixels: Confusion | ClassPixels, classes: Sequence[str]) -> dict[str, Any]:
    """Return the fields that are computed from the counts.

    Args:
        pixels: Counts of all images.
        classes: Class names in label order.
    """
    result = scores(pixels)
    averaged = int(sum(not math.isnan(v) for v in result.iou))
    return {
        "counts": {name: [int(n) for n in getattr(pixels, name)] for name in COUNTS},
        "metrics": {
            "mIoU": _number(result.miou), "mAcc": _number(result.macc), "aAcc": _number(result.aacc),
            "classes_in_mean": averaged,
        },
        "per_class": [
            {"class": name, "iou": _number(iou), "acc": _number(acc)}
            for name, iou, acc in zip(classes, result.iou, result.acc, strict=True)
        ],
    }  # fmt: skip


def _number(value: float) -> float | None:
    """Return None (null in JSON, which has no NaN) for a score without pixels."""
    return None if math.isnan(value) else float(value)


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
        return json.loads(read_source(path / RECORD_MEMBER).data)
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


def value_at(record: Mapping[str, Any], name: str, missing: Any = None) -> Any:
    """Return the value under a dotted name such as "dataset.classes"."""
    value: Any = record
    for step in name.split("."):
        value = value.get(step, missing) if isinstance(value, dict) else missing
    return value
