"""Files for Kubernetes and SkyPilot: their commands exist, and their numbers fit together."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
import yaml
from test_commands import parse

from ovbench.evaluation.distributed import shard_of_environment

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"


def container(name):
    job = yaml.safe_load((FOLDER / name).read_text())
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    assert job["spec"]["completions"] == job["spec"]["parallelism"] and "backoffLimitPerIndex" in job["spec"]
    pod = job["spec"]["template"]["spec"]
    (one,) = pod["containers"]
    mounts = {mount["name"] for mount in one["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]} and pod["restartPolicy"] == "Never"
    return job["spec"], one, {each["name"]: each["value"] for each in one["env"]}


@pytest.mark.parametrize("name", ["kubernetes-sweep.yaml", "kubernetes-shards.yaml"])
def test_the_command_of_a_pod_exists_and_reads_its_volume(name):
    _, one, environment = container(name)
    assert one["command"][0] == "ovbench"
    parse(one["command"][1:])
    paths = [word for word in one["command"] if word.startswith("/")] + [environment["OVBENCH_CACHE"]]
    assert all(path.startswith(one["volumeMounts"][0]["mountPath"]) for path in paths)


def test_the_pods_of_an_indexed_job_take_every_shard_once():
    spec, _, environment = container("kubernetes-shards.yaml")
    indices = [{"JOB_COMPLETION_INDEX": str(index)} for index in range(spec["completions"])]
    shards = [shard_of_environment(environment | each).shard for each in indices]
    assert [shard.number for shard in shards] == list(range(1, spec["completions"] + 1))
    assert {shard.of for shard in shards} == {spec["completions"]}


def test_the_commands_of_skypilot_exist():
    task = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())
    assert task["num_nodes"] > 1 and task["resources"]["use_spot"] is True and "://" in task["envs"]["OUT"]
    words = shlex.split(task["run"].replace("$OUT", str(os.getcwd())))
    assert words[0] == "ovbench"
    parse(words[1:])
