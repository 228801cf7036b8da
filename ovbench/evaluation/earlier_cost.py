"""Estimate the time of an image and the peak memory of a cell from earlier records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config.load import Cell
from ovbench.evaluation.record import read_record
from ovbench.utils.errors import InputError

SAME = ("short_side", "long_side", "crop", "stride", "pad", "refine")  # settings of the protocol that change the cost
READING_THREADS = 2  # at least so many read ahead


class EarlierCost(NamedTuple):
    """Seconds per image and peak memory in bytes, from an earlier record."""

    seconds: float
    memory: int | None
    record: Path


def image_seconds(record: Mapping[str, Any]) -> float | None:
    """Return the time per image of one process, None if the record does not have it.

    On a CPU, the threads that read images, label them and count pixels share the cores, so their times are added. On
    another device, reading is done ahead and counting behind, so the slowest of the three decides; region maps are
    made on the device.
    """
    spent, images = record["time"].get("seconds"), record["dataset"]["images"]
    if not spent or not images:
        return None
    read, regions, label, count = (spent.get(stage, 0.0) / images for stage in ("read", "regions", "label", "count"))
    if (record.get("device") or {}).get("type") == "cpu":
        return read + regions + label + count
    return max(regions + label, read / READING_THREADS, count)


def earlier_cost(
    cell: Cell, records: Iterable[tuple[Path, Mapping[str, Any]]], device: Mapping[str, Any] | None = None
) -> EarlierCost | None:
    """Return the cost of the newest record with the same settings, otherwise of the method with windows as large.

    Args:
        cell: The resolved settings.
        records: Earlier records with their files.
        device: The device that the record must be from; None for any, if it is not known where the cell will run.
    """
    plain, fitting = cell.as_dict(), []
    for path, record in records:
        there, run_on = record["cell"], record.get("device") or {}
        alike = all(there.get(key) == plain[key] for key in ("method", "backbones", "regions"))
        alike &= all(there["protocol"].get(key) == plain["protocol"].get(key) for key in SAME)
        alike &= device is None or all(run_on.get(k) == device.get(k) for k in ("type", "name", "precision", "compile"))
        seconds = image_seconds(record)
        if alike and seconds is not None:
            equal = record["settings_sha256"] == cell.digest()
            fitting.append(((equal, record["time"]["started"]), seconds, path, record["time"]))
    if not fitting:
        return None
    _, seconds, path, time = max(fitting, key=lambda each: each[0])
    memory = time.get("peak_memory") or {}
    return EarlierCost(seconds, memory.get("device_bytes") or memory.get("host_bytes"), path)


def read_records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the records in a folder that can be read, with their files."""
    found = []
    for path in sorted(folder.glob("*.json"), key=str) if folder.exists() else ():
        try:
            found.append((path, read_record(path)))
        except InputError:
            continue
    return found
