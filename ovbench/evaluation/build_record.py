"""A record from a ledger: nothing in it but times comes from anywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovbench.config.backbone_spec import toy_note
from ovbench.data.dataset import ids_sha256
from ovbench.evaluation.ledger import Entry
from ovbench.evaluation.record import SCHEMA, score_fields
from ovbench.metrics.confusion import Confusion, PixelCounts
from ovbench.metrics.interval import miou_interval, stack_counts


def build_record(
    header: Mapping[str, Any],
    wanted: Sequence[str],
    entries: Mapping[str, Entry],
    made_with: Mapping[str, Any],
    timing: Mapping[str, Any],
    ledger: str,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of the images ``wanted``, see `ovbench.evaluation.record`.

    ``header`` is the ledger's; ``made_with`` are versions, revision and device; ``timing`` what the run itself knows,
    to which the seconds of every stage, summed over images, are added; ``ledger`` is the name of the ledger's folder,
    which lies beside the record. ``about`` says which images of the ledger the record is about, see
    `ovbench.results.counted`.
    """
    scored = [i for i in wanted if i in entries and entries[i].counts is not None]
    failed = {i: entries[i].failed for i in wanted if i in entries and entries[i].counts is None}
    classes = header["dataset"]["classes"]
    confusion = Confusion(len(classes))
    seconds: dict[str, float] = {}
    for image in scored:
        confusion.add(entries[image].counts)
        for stage, spent in entries[image].seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    cell, fields = header["cell"], score_fields(confusion, tuple(classes))
    record = {
        "schema": SCHEMA,
        "status": "complete" if len(scored) == len(wanted) else "partial",
        "cell": cell,
        "settings_sha256": header["settings_sha256"],
        "dataset": {
            **header["dataset"],
            "images": len(scored),
            "images_asked_for": len(wanted),
            "ids_sha256": ids_sha256(scored),
            **(about or {}),
        },
        "weights": header["weights"],
        **{key: header[key] for key in ("files", "code") if key in header},
        **made_with,
        **fields,
        "failed": failed,
        "ledger": ledger,
        "time": {**timing, "seconds": {stage: round(spent, 4) for stage, spent in sorted(seconds.items())}},
    }
    note = "" if header["dataset"]["layout"] == "generated" else toy_note(cell["backbones"])
    if note:
        record["notes"] = [note]
    record["metrics"] |= _interval([entries[image].counts for image in scored], len(classes))
    return record


def _interval(counts: Sequence[PixelCounts], classes: int) -> dict[str, Any]:
    """Where mIoU lies on other images drawn like these; None where that cannot be said, with the reason."""
    found = miou_interval(stack_counts(counts, classes))
    if found.interval is None:
        return {"mIoU_interval": None, "mIoU_no_interval": found.why}
    return {"mIoU_interval": [found.interval.low, found.interval.high]}
