"""Shards from the variables of schedulers, and one rule about devices."""

from __future__ import annotations

import pytest

from ovbench.evaluation.devices import distinct_devices, refuse_other_devices
from ovbench.evaluation.distributed import ProcessGroup, Shard, parse_shard, shard_of_environment
from ovbench.utils.errors import InputError, UsageError

NAMES = ("ID", "COUNT", "MIN", "MAX")
ARRAY = {f"SLURM_ARRAY_TASK_{name}": value for name, value in zip(NAMES, "3818", strict=True)}
SRUN = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4"}
MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        (ARRAY, (3, 8)),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7"}, (1, 8)),
        (
            {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10",
             "SLURM_ARRAY_TASK_MAX": "15", "SLURM_ARRAY_TASK_STEP": "2"},
            (3, 3),
        ),
        (SRUN, (1, 4)),
        (SRUN | {"SLURM_PROCID": "3"}, (4, 4)),
        (ARRAY | SRUN | {"SLURM_PROCID": "1"}, (10, 32)),
        ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "5"}, (1, 5)),
        (MPI, (3, 3)),
        (MPI | SRUN, (3, 3)),
        (ARRAY | {"GROUP_WORLD_SIZE": "1"}, (3, 8)),
        (ARRAY | {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, (3, 8)),  # a batch script, without srun
    ],
)  # fmt: skip
def test_the_shard_of_a_task(environment, shard, monkeypatch):
    found = shard_of_environment(environment)
    assert found.shard == Shard(*shard)
    assert all(value in environment.values() for value in (each.split("=")[1] for each in found.variables.split(", ")))
    for name in [*ARRAY, *SRUN, *MPI]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse_shard("auto") == shard


def test_the_tasks_of_an_array_divide_all_images():
    images = list(range(101))
    environments = [
        ARRAY | SRUN | {"SLURM_ARRAY_TASK_ID": str(a), "SLURM_PROCID": str(p)} for a in range(1, 9) for p in range(4)
    ]
    taken = [image for one in environments for image in shard_of_environment(one).shard.take(images)]
    assert sorted(taken) == images


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no scheduler has numbered this task"),
        ({"JOB_COMPLETION_INDEX": "1"}, "set JOB_COMPLETIONS"),
        (ARRAY | {"SLURM_ARRAY_TASK_COUNT": "3"}, "are not 3 ids in equal steps"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "no scheduler has numbered this task"),
        ({"SLURM_PROCID": "4", "SLURM_STEP_NUM_TASKS": "4"}, "no shard of 4 has the index 4"),
        ({"SLURM_PROCID": "x", "SLURM_STEP_NUM_TASKS": "4"}, "a number is expected"),
        (SRUN | {"GROUP_WORLD_SIZE": "2"}, "torchrun on several nodes divides the images already"),
    ],
)
def test_variables_that_give_no_shard(environment, message):
    with pytest.raises(UsageError, match=message):
        shard_of_environment(environment)


def test_a_worker_is_alone_whatever_its_launcher_says(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("SLURM_LOCALID", "2")
    alone = ProcessGroup.alone()
    assert alone.size == 1 and alone.is_main and alone.local_rank == 2 and alone.take([1, 2]) == [1, 2]


def test_a_gpu_is_made_current(monkeypatch):
    import torch

    from ovbench.utils.provenance import use_device

    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for device in ("cpu", "cuda:1"):
        use_device(device)
    assert current == ["cuda:1"]


def test_unlike_devices_are_refused_by_the_field_that_differs():
    one, other = {"type": "cuda", "name": "A100"}, {"type": "cuda", "name": "H100"}
    refuse_other_devices([one, None, dict(one)], "runs", "choose another --out")
    with pytest.raises(InputError, match=r'"name" is A100 and H100 .*--mixed-devices'):
        refuse_other_devices([one, None, other], "runs", "choose another --out")
    assert distinct_devices([one, other, one, None]) == [one, other]
