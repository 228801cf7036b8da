"""Find the runs that counted the images of a ledger, with their code and device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ovbench.evaluation.devices import distinct_devices
from ovbench.evaluation.ledger import Ledger


def run_summaries(entries: Ledger) -> list[dict[str, Any]]:
    """Return start, number of counted images and commit of each run, for the record."""
    return [
        {"started": run["started"], "images": images, "commit": (run.get("git") or {}).get("commit")}
        for run, images in entries.runs()
    ]


def software_and_device(header: Mapping[str, Any], entries: Ledger, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions, revision and device of the runs that counted images.

    Args:
        header: Header of the ledger.
        entries: Entries of the ledger.
        now: The present run, which is used if no image is counted yet.
    """
    runs = [run for run, _ in entries.runs()] or [dict(now)]
    devices = [run["device"] for run in runs if "device" in run]  # missing if the line with the device is damaged
    ours = sorted({run["ovbench"] for run in runs if "ovbench" in run})  # the header has only hashes of the code
    return {
        "versions": {**header["code"]["packages"], **({"ovbench": ", ".join(ours)} if ours else {})},
        "git": joined_revisions(run.get("git") for run in runs),
        "device": devices[-1] if devices else now["device"],
        **({"devices": different} if len(different := distinct_devices(devices)) > 1 else {}),
    }


def joined_revisions(found: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the revision that all runs have in common, or the list of all."""
    found = list(found)
    if all(each == found[0] for each in found):
        return dict(found[0]) if found[0] else None
    commits = sorted({each["commit"] if each else "none" for each in found})
    return {"commit": ", ".join(commits), "modified": any(each is None or each["modified"] for each in found)}
