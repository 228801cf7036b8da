"""Records as evaluation results of a Hugging Face model repository: a file `.eval_results/NAME.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovbench.results.record_files import RecordFile
from ovbench.results.run_names import run_details
from ovbench.utils.errors import InputError, UsageError

DEFAULT_TASK = "default"


def eval_results(records: Sequence[RecordFile], hub: Mapping[str, str]) -> str:
    """Return YAML with one entry per record: mIoU in percent, its date, and settings, interval and code as a note.

    The keys are those of https://huggingface.co/docs/hub/eval-results.

    Args:
        records: Complete records.
        hub: The dataset on the hub of each benchmark, as "OWNER/DATASET" or "OWNER/DATASET:TASK".

    Raises:
        UsageError: If a benchmark has no dataset on the hub, or an unusual one.
        InputError: If a record covers only part of its benchmark.
    """
    import yaml  # not needed by any other format

    entries = []
    for found, detail in zip(records, run_details(records), strict=True):
        name = found.record["cell"]["dataset"]
        if name not in hub:
            raise UsageError(
                f'no Hugging Face dataset is given for "{name}"', fix=f"give --hub-dataset {name}=OWNER/DATASET:TASK"
            )
        if found.partial:
            data = found.record["dataset"]
            raise InputError(
                f"only {data['images']} of {data['split_images']} images were scored", where=str(found.path),
                fix="export complete records only",
            )  # fmt: skip
        if found.record["metrics"]["mIoU"] is None:
            raise InputError("the record has no score", where=str(found.path))
        entries.append(_entry(found.record, detail, *_dataset(name, hub[name])))
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)


def _dataset(name: str, given: str) -> tuple[str, str]:
    dataset, _, task = given.partition(":")
    owner, _, short = dataset.partition("/")
    if not owner or not short or "/" in short:
        raise UsageError(f'"{given}" is no dataset of the hub', where=f"--hub-dataset {name}", fix="give OWNER/DATASET")
    return dataset, task or DEFAULT_TASK


def _entry(record: Mapping[str, Any], detail: str, dataset: str, task: str) -> dict[str, Any]:
    bounds, git = record["metrics"].get("mIoU_interval"), record.get("git") or {}
    said = [
        "mIoU in percent", record["cell"]["method"] + (f" ({detail})" if detail else ""),
        f"95 % interval {100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}" if bounds else "no interval",
        f"ovbench {record['versions'].get('ovbench') or 'of unknown version'}",
        f"commit {git['commit'][:12]}" if git.get("commit") else "", f"settings {record['settings_sha256'][:12]}",
        *(record.get("notes") or []),
    ]  # fmt: skip
    date = record["time"]["started"]
    return {
        "dataset": {"id": dataset, "task_id": task}, "value": round(100 * record["metrics"]["mIoU"], 4),
        **({"date": date} if date else {}), "notes": "; ".join(filter(None, said)),
    }  # fmt: skip
