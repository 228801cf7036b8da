"""The result of a cell as one JSON document.

Fields, top level:
  schema      version of this layout
  status      "complete", or "partial" where images that were asked for are missing or failed
  cell        method, dataset, params, protocol, backbones, regions: everything as resolved
  settings_sha256   hash of ``cell``
  dataset     title, split, images in the split, layout on disk, label rule, hash of the subset manifest (null without
              one), class names, background class; card: "ovbench" for a benchmark that ships, or "own"; split_sha256:
              hash of the ids of the whole split; files, encoding, encoding_sha256, white: where image and label lie and
              what their values mean; images scored, images asked for, hash of the ids of those scored; limit, shard
  weights     per backbone: name and hash of its tensors; "code": hash of the file that a method comes from, if it does
  files       hashes of what settings name: prompts, descriptions, weights of the region source, other files
  code        hashes of the source of ovbench, of the method and of the region source if they come from elsewhere (else
              null), versions of packages, kind of device
  versions, git, device   what the images were counted with (git: of all runs that counted some; device: of the last)
  notes       only where a reader of the scores must know more, such as toy networks on photographs: sentences
  published   how the run stands to the published ones: official (whether there is an official setting of the method on
              the benchmark; if not, a remark), deviations from the nearest published run (setting, published, value;
              also of descriptions and of the label rule), and the tables whose figures are of exactly these settings
  approximate  only where an approximation stood in for an exact computation: what, and how good it was measured to be
  counts      per class, integers: intersection, union, predicted, labelled (pixels)
  metrics     fractions: mIoU, its 95 % interval by a jackknife over images (null where it would mean nothing, then
              mIoU_no_interval says why), mAcc, aAcc, and how many classes are in the mean of mIoU
  per_class   class, iou, acc (fractions; null where there is nothing to score)
  failed      ids of images that could not be scored, with the reason
  ledger      folder beside the record that holds the counts of every image
  time        all that differs from run to run: start, seconds in all and per stage, processes, peak memory; counted:
              when each run started that counted some of the images, how many, and from which commit
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovbench.metrics.confusion import Confusion
from ovbench.metrics.iou import scores
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json

SCHEMA = 1


def score_fields(confusion: Confusion, classes: tuple[str, ...]) -> dict[str, Any]:
    """The fields that follow from the counts alone."""
    result = scores(confusion)
    averaged = int(sum(not math.isnan(v) for v in result.iou))
    return {
        "counts": {
            name: [int(n) for n in getattr(confusion, name)]
            for name in ("intersection", "union", "predicted", "labelled")
        },
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
    """JSON knows no NaN: null stands for a score without pixels."""
    return None if math.isnan(value) else float(value)


def read_record(path: Path) -> dict[str, Any]:
    """A record from disk; InputError for a file that is none."""
    record = read_json(path)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise InputError("not a result record of this version", where=str(path))
    return record


def value_at(record: Mapping[str, Any], name: str, missing: Any = None) -> Any:
    """What stands under a dotted name such as "dataset.classes"."""
    value: Any = record
    for step in name.split("."):
        value = value.get(step, missing) if isinstance(value, dict) else missing
    return value
