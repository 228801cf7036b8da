"""Start workers of a sweep with an existing engine; an engine only runs the command of a worker."""

from __future__ import annotations

import ctypes
import importlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.utils.errors import InputError, UsageError, first_line
from ovbench.utils.extras import install_line
from ovbench.utils.registry import Registry

LAUNCHERS = Registry(
    "engine",
    {
        "local": "ovbench.cluster.launch:start_local",
        "print": "ovbench.cluster.launch:print_command",
        "ray": "ovbench.cluster.launch:start_ray",
        "slurm": "ovbench.cluster.launch:start_slurm",
    },
)
CORES = 4  # of a worker on the CPU
TIMEOUT_MIN = 240  # of a Slurm job, unless the user chooses another limit
REQUEUES = 100  # of a Slurm job that reaches its time limit


class Started(NamedTuple):
    """What an engine has started.

    Attributes:
        lines: Lines for the user.
        failed: Number of workers that ended with an error; 0 if the engine does not wait for them.
        waited: Whether all workers have ended.
    """

    lines: list[str]
    failed: int = 0
    waited: bool = False


def worker_command(out: Path) -> list[str]:
    """Return the command of one worker."""
    return [sys.executable, "-m", "ovbench", "sweep", "work", str(out)]


def start_local(out: Path, workers: int | None, options: Mapping[str, Any]) -> Started:
    """Start workers on this machine, one per GPU or group of cores, and wait for them.

    Args:
        out: Folder of the records.
        workers: Number of workers; None for all GPUs or cores.
        options: None are known.
    """
    _refuse_options("local", options, ())
    environments = local_environments(workers)
    running = [subprocess.Popen(worker_command(out), env={**os.environ, **more}) for more in environments]
    try:
        codes = [process.wait() for process in running]
    except BaseException:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise
    return Started([], sum(code not in (0, 4) for code in codes), True)


def local_environments(workers: int | None) -> list[dict[str, str]]:
    """Return the environment variables of every worker on this machine: its GPU, or its number of threads."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        return [{"CUDA_VISIBLE_DEVICES": visible[number % gpus]} for number in range(workers or gpus)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = workers or max(1, cores // CORES)
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // number)))
    return [{"OMP_NUM_THREADS": threads}] * number


def print_command(out: Path, workers: int | None, options: Mapping[str, Any]) -> Started:
    """Return the command of a worker, for any other engine."""
    _refuse_options("print", options, ())
    return Started([shlex.join(["ovbench", *worker_command(out)[3:]])])


def start_slurm(out: Path, workers: int | None, options: Mapping[str, Any]) -> Started:
    """Submit a job array of workers with submitit.

    A worker that is preempted or reaches its time limit gives its task back, and Slurm requeues it.

    Args:
        out: Folder of the records.
        workers: Number of array tasks.
        options: Parameters of submitit's executor, such as ``slurm_partition`` and ``timeout_min``, with or without the
            prefix ``slurm_``; ``cluster=local`` runs the same without Slurm.
    """
    submitit = _library("submitit", "slurm")
    given = dict(options)
    cluster = given.pop("cluster", None)
    logs = Path(out if isinstance(out, Path) else Path.cwd()) / "sweep" / "logs"
    executor = submitit.AutoExecutor(folder=logs, cluster=cluster, slurm_max_num_timeout=REQUEUES)
    try:
        executor.update_parameters(**{"name": "ovbench", "timeout_min": TIMEOUT_MIN, **_slurm_names(given)})
    except (TypeError, NameError, ValueError, AssertionError) as error:
        raise UsageError(f"submitit: {first_line(error)}", where="--option") from None
    number = workers or 1
    with executor.batch():
        jobs = [executor.submit(SlurmWorker(worker_command(out))) for _ in range(number)]
    return Started([f"{number} workers submitted: {', '.join(job.job_id for job in jobs)}; logs in {logs}"])


def _slurm_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the prefix ``slurm_`` if submitit knows them only with it."""
    known = {"timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "stderr_to_stdout"}
    return {key if key in known or key.startswith("slurm_") else f"slurm_{key}": v for key, v in options.items()}


class SlurmWorker:
    """The function of an array task: it runs the command of a worker, and is submitted again when Slurm stops it.

    Args:
        command: The command.
    """

    def __init__(self, command: Sequence[str]):
        self.command = list(command)

    def __call__(self) -> int:
        """Run the worker; return its exit code."""
        self.process = subprocess.Popen(self.command, preexec_fn=_ignore_user_signals)
        code = self.process.wait()
        if code not in (0, 4):
            raise RuntimeError(f"the worker ended with exit code {code}; its output is in the log of the job")
        return code

    def checkpoint(self) -> Any:
        """Stop the worker, which gives its task back, and return the submission that Slurm starts again."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        self.process.wait()
        return DelayedSubmission(SlurmWorker(self.command))


def _ignore_user_signals() -> None:
    """Leave the signals with which Slurm announces the end to `SlurmWorker`; they go to all processes of a step."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def start_ray(out: Path, workers: int | None, options: Mapping[str, Any]) -> Started:
    """Run workers as Ray tasks, and wait for them; Ray places them on its nodes and restarts those that it loses.

    Args:
        out: Folder of the records.
        workers: Number of workers; None for one per GPU of the cluster, or per group of cores.
        options: ``address`` of the cluster, and resources of a worker: ``num_cpus``, ``num_gpus``, ``memory``.
    """
    ray = _library("ray", "ray")
    _refuse_options("ray", options, ("address", "num_cpus", "num_gpus", "memory"))
    given = dict(options)
    ray.init(address=given.pop("address", None), log_to_driver=True, ignore_reinit_error=True)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    wanted = {"num_cpus": 1 if gpus else min(CORES, int(resources.get("CPU", 1))), "num_gpus": 1 if gpus else 0} | given
    per = "GPU" if wanted["num_gpus"] else "CPU"
    need = wanted["num_gpus"] or wanted["num_cpus"]
    number = workers or max(1, int(resources.get(per, 1) // need))
    restart = {"max_retries": -1, "retry_exceptions": [KilledWorker]}  # of a lost node, and of a killed process
    task = ray.remote(run_command).options(**wanted, **restart, name="ovbench-worker")
    references = [task.remote(worker_command(out), int(wanted["num_cpus"])) for _ in range(number)]
    codes = ray.get(references)
    return Started(
        [f"{number} workers have ended on {len(ray.nodes())} nodes"], sum(c not in (0, 4) for c in codes), True
    )


class KilledWorker(RuntimeError):
    """A worker was killed; another one must take its place."""


def run_command(command: Sequence[str], threads: int) -> int:
    """Run a worker in a process of its own, with the GPU that the engine has chosen for this one.

    Raises:
        KilledWorker: If the worker was killed.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, threads)), **os.environ}
    code = subprocess.run(command, env=environment, check=False, preexec_fn=_end_with_parent).returncode
    if code < 0:
        raise KilledWorker(f"signal {-code}")
    return code


def _end_with_parent() -> None:
    """Ask Linux to stop this process if the process of the engine is killed: it would keep its GPU."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"the engine needs {name}", where=f"--on {extra}", fix=install_line(extra)) from None


def _refuse_options(engine: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    if other := sorted(set(options) - set(known)):
        fix = f"known: {', '.join(known)}" if known else "remove it"
        raise UsageError(f'the engine {engine} has no option "{other[0]}"', where="--option", fix=fix)
