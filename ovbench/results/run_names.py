"""Name what distinguishes the runs of one method, with the same words in tables, plots and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovbench.evaluation.record import value_at
from ovbench.results.record_files import RecordFile, deviations_of

HASH_DIGITS = 8


def run_facts(record: Mapping[str, Any]) -> list[str]:
    """Return what a run has besides its deviations: precision, compilation, subset."""
    precision = value_at(record, "device.precision", "fp32")
    subset = value_at(record, "dataset.subset_sha256")
    return [
        *([f"precision {precision}"] if precision != "fp32" else []),
        *(["compiled"] if value_at(record, "device.compile") else []),
        *([f"subset {subset[:HASH_DIGITS]}"] if subset else []),
    ]


def run_details(records: Sequence[RecordFile]) -> list[str]:
    """Return for each record how it differs from the published settings and from the other runs of its method.

    Files with the same name and other content (weights, class descriptions) are distinguished by a hash.

    Args:
        records: The records that are shown together.
    """
    plain = [", ".join(filter(None, [deviations_of(f.record), *run_facts(f.record)])) for f in records]
    alike: dict[tuple[str, str], list[RecordFile]] = {}
    for found, detail in zip(records, plain, strict=True):
        alike.setdefault((found.record["cell"]["method"], detail), []).append(found)
    unlike = {key: _unlike_files(members) for key, members in alike.items()}
    return [
        ", ".join(filter(None, [detail, *_hashes(found.record, unlike[found.record["cell"]["method"], detail])]))
        for found, detail in zip(records, plain, strict=True)
    ]


def _file_hashes(record: Mapping[str, Any]) -> dict[str, str]:
    weights = {kind: one["sha256"] for kind, one in record["weights"].items()}
    return weights | {f"file of {name}": digest for name, digest in record.get("files", {}).items()}


def _unlike_files(records: Sequence[RecordFile]) -> set[str]:
    """Return the files whose content differs between two runs of one dataset."""
    seen: dict[tuple[str, str], set[str]] = {}
    for found in records:
        for name, digest in _file_hashes(found.record).items():
            seen.setdefault((found.record["cell"]["dataset"], name), set()).add(digest)
    return {name for (_, name), digests in seen.items() if len(digests) > 1}


def _hashes(record: Mapping[str, Any], names: set[str]) -> list[str]:
    return [f"{name} {digest[:HASH_DIGITS]}" for name, digest in _file_hashes(record).items() if name in names]
