"""What made the counts of a ledger: which runs, with which revision of the code, on which device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ovbench.evaluation.ledger import Entry


def runs_of(entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """The runs that counted the images, the oldest first."""
    runs = {e.run["started"]: e.run for e in entries.values() if e.counts is not None and e.run}
    return [runs[started] for started in sorted(runs)]


def counted_by(entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """For the record: when each run started, how many of the images it counted, and from which commit."""
    images = Counter(e.run["started"] for e in entries.values() if e.counts is not None and e.run)
    return [
        {"started": run["started"], "images": images[run["started"]], "commit": (run.get("git") or {}).get("commit")}
        for run in runs_of(entries)
    ]


def made_with(header: Mapping[str, Any], entries: Mapping[str, Entry], now: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, revision and device of the runs that counted the images; those of ``now`` where none did yet."""
    runs = runs_of(entries) or [now]
    devices = [run["device"] for run in runs if "device" in run]  # a damaged line may have been the one that told it
    ours = sorted({run["ovbench"] for run in runs if "ovbench" in run})  # its header names the code by content
    return {
        "versions": {**header["code"]["packages"], **({"ovbench": ", ".join(ours)} if ours else {})},
        "git": joined_revisions(run.get("git") for run in runs),
        "device": devices[-1] if devices else now["device"],
    }


def joined_revisions(found: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The one revision of all runs, or all of them."""
    found = list(found)
    if all(each == found[0] for each in found):
        return dict(found[0]) if found[0] else None
    commits = sorted({each["commit"] if each else "none" for each in found})
    return {"commit": ", ".join(commits), "modified": any(each is None or each["modified"] for each in found)}
