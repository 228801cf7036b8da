"""Build the record of a cell from its ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovbench.config.backbone_spec import toy_note
from ovbench.data.image_ids import ids_sha256
from ovbench.evaluation.ledger import Entry
from ovbench.evaluation.record import SCHEMA, Record, score_fields
from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.extra_counts import ExtraCounts
from ovbench.metrics.influence import measure
from ovbench.metrics.named import METRICS, MetricClasses, class_list
from ovbench.metrics.stacked import CountColumns, CountedImages


def build_record(
    header: Mapping[str, Any],
    wanted: Sequence[str],
    entries: Mapping[str, Entry],
    made_with: Mapping[str, Any],
    timing: Mapping[str, Any],
    ledger: str,
    about: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compute a record from the entries of a ledger, as JSON data of the type `Record`.

    Args:
        header: The ledger's header.
        wanted: Ids of the requested images.
        entries: The ledger's entries by image.
        made_with: Versions, revision and device.
        timing: Times of the run; the seconds of every stage, summed over images, are added.
        ledger: Name of the ledger's folder, which is beside the record.
        about: Limit and shard.
        arguments: The arguments as passed, see `Arguments`.
    """
    classes, about_classes = header["dataset"]["classes"], class_list(header["dataset"])
    pixels = CountColumns[PixelCounts]()
    extra = {name: CountColumns[ExtraCounts]() for name in header.get("metrics", ())}
    scored, failed, seconds = list[str](), dict[str, str | None](), dict[str, float]()
    for entry in (entries[image] for image in wanted if image in entries):
        if entry.counts is None:
            failed[entry.image] = entry.failed
            continue
        scored.append(entry.image)
        pixels.append(entry.counts)
        for name, columns in extra.items():
            columns.append(entry.extra[name])  # type: ignore[index]
        for stage, spent in entry.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    images = CountedImages(pixels, len(classes), extra)
    sums = {name: images.total(name) for name in images.extra}
    record = {
        "schema": SCHEMA,
        "status": "complete" if len(scored) == len(wanted) else "partial",
        **({"arguments": arguments} if arguments is not None else {}),
        "cell": header["cell"],
        "settings_sha256": header["settings_sha256"],
        "dataset": {
            **header["dataset"], "images": len(scored), "images_asked_for": len(wanted),
            "ids_sha256": ids_sha256(scored), **(about or {}),
        },
        "weights": header["weights"],
        **{key: header[key] for key in ("use", "files", "code") if key in header},
        **made_with,
        **score_fields(images.total("pixels"), classes, about_classes, sums),
        "failed": failed,
        "ledger": ledger,
        "time": {
            "started": "", **timing, "seconds": {stage: round(spent, 4) for stage, spent in sorted(seconds.items())}
        },
    }  # fmt: skip
    record["metrics"] |= _intervals(record["metrics"], images, about_classes)
    note = "" if header["dataset"]["layout"] == "generated" else toy_note(header["cell"]["backbones"])
    if note:
        record["notes"] = [note]
    made = Record.model_validate(record)
    return made.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _intervals(metrics: Mapping[str, Any], images: CountedImages, classes: MetricClasses) -> dict[str, Any]:
    """Return the intervals of all scores; None if there is none, for mIoU with the reason."""
    found = {name: measure(METRICS[name], images, classes) for name in METRICS if name in metrics}
    bounds = {name: None if one.interval is None else list(one.interval[:2]) for name, one in found.items()}
    main: dict[str, Any] = {"mIoU_interval": bounds.pop("mIoU")}
    if found["mIoU"].interval is None:
        main["mIoU_no_interval"] = found["mIoU"].why
    return {**main, "intervals": bounds}
