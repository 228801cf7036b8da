"""Log records to experiment trackers: Weights & Biases, TensorBoard and MLflow, through their own libraries."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.evaluation.record import value_at
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.extras import install_line

PROJECT = "ovbench"  # name of the project or experiment
MOST_METRICS = 900  # of one call of MLflow, which allows 1000


class TrackedRun(NamedTuple):
    """A record as a tracker takes it.

    Attributes:
        name: Name of the run.
        settings: Settings and facts by dotted name.
        scores: Scores as fractions, and seconds per image, by name.
        path: File of the record.
    """

    name: str
    settings: dict[str, str | int | float | bool]
    scores: dict[str, float]
    path: Path


def tracked_run(record: Mapping[str, Any], path: Path) -> TrackedRun:
    """Return the settings and scores of a record.

    Args:
        record: The record.
        path: Its file.
    """
    settings = _flat(record["cell"])
    settings |= {f"weights.{kind}": one["sha256"] for kind, one in record["weights"].items()}
    settings |= {f"dataset.{key}": record["dataset"][key] for key in ("images", "split_images", "label_rule")}
    settings |= {f"device.{key}": _plain(value) for key, value in record["device"].items()}
    settings["ovbench"] = str(record["versions"].get("ovbench") or "")
    metrics, bounds = record["metrics"], record["metrics"].get("mIoU_interval")
    scores = {name: metrics[name] for name in ("mIoU", "mAcc", "aAcc")}
    scores |= {} if bounds is None else {"mIoU_low": bounds[0], "mIoU_high": bounds[1]}
    seconds, images = value_at(record, "time.seconds.label"), record["dataset"]["images"]
    scores |= {"seconds_per_image": seconds / images} if seconds and images else {}
    scores |= {f"IoU/{row['class']}": row["iou"] for row in record["per_class"]}
    return TrackedRun(path.stem, settings, {name: value for name, value in scores.items() if value is not None}, path)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": _plain(value)}
    return found


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def require_trackers(names: Sequence[str]) -> None:
    """Check that the libraries of trackers are installed.

    Raises:
        InputError: With the packages to install.
    """
    for name in names:
        if find_spec(name) is None:
            raise InputError(f"--log {name} needs the package {name}", fix=install_line(name))


def log_record(name: str, record: Mapping[str, Any], path: Path) -> None:
    """Log a record to a tracker; its files are beside the record unless the tracker's environment says otherwise.

    Args:
        name: A key of `TRACKERS`.
        record: The record.
        path: Its file.

    Raises:
        InputError: If the tracker refuses it.
    """
    try:
        TRACKERS[name](tracked_run(record, path), path.parent)
    except Exception as error:  # their errors have no common base class; the record itself is safe on disk
        raise InputError(
            f"{name} did not log {path.name}: {type(error).__name__}: {first_line(error)}",
            fix="the record is saved; repeat the command to log it, nothing is counted again",
        ) from error


def _tensorboard(run: TrackedRun, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard" / run.name)) as writer:
        for tag, value in run.scores.items():
            writer.add_scalar(tag, value)
        rows = "\n".join(f"| {key} | {value} |" for key, value in run.settings.items())
        writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")
        writer.add_hparams(dict(run.settings), {"mIoU": run.scores.get("mIoU", 0.0)}, run_name=".")


def _wandb(run: TrackedRun, folder: Path) -> None:
    import wandb

    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT), name=run.name, config=dict(run.settings), dir=str(folder),
        settings=wandb.Settings(silent=True, console="off"),
    ) as one:  # fmt: skip
        one.summary.update(run.scores)
        one.save(str(run.path), base_path=str(run.path.parent), policy="now")


def _mlflow(run: TrackedRun, folder: Path) -> None:
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no database
        mlflow.set_tracking_uri((folder / "mlruns").absolute().as_uri())
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    with mlflow.start_run(run_name=run.name):
        mlflow.log_params(dict(run.settings))
        scores = iter({re.sub(r"[^\w\-./ ]", "_", key): value for key, value in run.scores.items()}.items())
        while chunk := dict(islice(scores, MOST_METRICS)):
            mlflow.log_metrics(chunk)
        mlflow.log_artifact(str(run.path))


TRACKERS: dict[str, Callable[[TrackedRun, Path], None]] = {
    "wandb": _wandb, "tensorboard": _tensorboard, "mlflow": _mlflow
}  # fmt: skip
