"""Engines start the command of a worker: on this machine, with submitit, with Ray, and on a real Slurm of one node."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from one_node_slurm import missing, one_node_slurm
from test_sweep import IMAGES, lines, one_thread, plain, plan, text_of, whole  # noqa: F401  fixtures

from ovbench.cluster import launch
from ovbench.utils.errors import InputError, UsageError

NOTES = """
import os, sys, uuid
names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
text = " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
open(os.path.join(sys.argv[1], uuid.uuid4().hex), "w").write(text)
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def notes(monkeypatch, tmp_path):
    """Workers that only write their environment into a folder, and end with a code."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (tmp_path / "code").write_text("0")

    def command(out):
        return [sys.executable, "-c", NOTES, str(folder), (tmp_path / "code").read_text()]

    monkeypatch.setattr(launch, "worker_command", command)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return lambda: sorted(path.read_text() for path in folder.iterdir())


def test_local_workers_share_the_cores(notes, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert launch.start_local(tmp_path, None, {}) == launch.Started([], 0, True)
    assert notes() == ["OMP_NUM_THREADS=4"] * 2


def test_a_local_worker_has_a_gpu_and_its_error_is_counted(notes, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    (tmp_path / "code").write_text("3")
    assert launch.start_local(tmp_path, 3, {}).failed == 3
    assert notes() == ["CUDA_VISIBLE_DEVICES=5", "CUDA_VISIBLE_DEVICES=5", "CUDA_VISIBLE_DEVICES=7"]


@pytest.mark.slow
def test_submitit_runs_workers_without_slurm(notes, tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed")
    started = launch.start_slurm(tmp_path, 2, {"cluster": "local", "timeout_min": 2})
    assert "2 workers submitted" in started.lines[0] and not started.waited
    deadline = time.monotonic() + 60
    while len(notes()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(UsageError, match="submitit: "):
        launch.start_slurm(tmp_path, 1, {"cluster": "local", "nodes": "many", "no_such_option": 1})


@pytest.mark.slow
def test_slurm_stops_a_worker_and_submits_it_again(tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed")
    ignored = "import signal, os; assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN; print(1)"
    assert launch.SlurmWorker([sys.executable, "-c", ignored])() == 0
    worker = launch.SlurmWorker([sys.executable, "-c", "import time; time.sleep(60)"])
    worker.process = subprocess.Popen(worker.command)
    again = worker.checkpoint()
    assert worker.process.returncode and again.function.command == worker.command
    with pytest.raises(RuntimeError, match="exit code 3"):
        launch.SlurmWorker([sys.executable, "-c", "raise SystemExit(3)"])()


def test_options_of_slurm_have_submitits_names():
    given = {"partition": "gpu", "timeout_min": 5, "slurm_array_parallelism": 4, "gpus_per_node": 1}
    wanted = {"slurm_partition": "gpu", "timeout_min": 5, "slurm_array_parallelism": 4, "gpus_per_node": 1}
    assert launch._slurm_names(given) == wanted


def test_an_engine_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'the engine needs ray .*pip install "(ovbench\[ray\]|ray)'):
        launch.start_ray(tmp_path, None, {})


@pytest.fixture
def ray_cluster(monkeypatch):
    """A Ray cluster with one node."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default workers starve beside other tests
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Ray's logger keeps a stream that pytest has closed
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_ray_on_two_nodes_of_this_machine(ovbench, plain, tmp_path, ray_cluster):  # noqa: F811
    ray_cluster.add_node(num_cpus=1)
    plan(ovbench, tmp_path)
    options = ("--option", f"address={ray_cluster.address}", "--option", "num_cpus=1")
    done = ovbench("sweep", "start", tmp_path, "--on", "ray", *options)
    assert done.code == 0 and "2 workers have ended on 2 nodes" in done.out, done.err
    assert text_of(tmp_path) == plain and len(lines(tmp_path)) == IMAGES


@pytest.mark.slow
def test_a_killed_worker_of_ray_is_started_again_and_one_with_an_error_is_not():
    with pytest.raises(launch.KilledWorker, match="signal 9"):
        launch.run_command([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], 1)
    assert launch.run_command([sys.executable, "-c", "raise SystemExit(3)"], 1) == 3


@pytest.mark.slow
def test_a_worker_ends_with_the_process_of_its_engine(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"import sys; from ovbench.cluster import launch; launch.run_command([sys.executable, '-c', {child!r}], 1)"
    engine = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    engine.kill()
    engine.wait()
    pid = int((tmp_path / "pid").read_text())
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_ray_loses_a_worker_and_a_node(ovbench, plain, tmp_path, ray_cluster):  # noqa: F811
    plan(ovbench, tmp_path)
    killed = []

    def kill():
        """Kill the first worker that takes a task of counting, then the second node."""
        deadline = time.monotonic() + 240
        while not killed and time.monotonic() < deadline:
            for lease in tmp_path.glob("sweep/*/tasks/00000[1-3].1"):
                os.kill(int(lease.read_text().split("-")[-2]), signal.SIGKILL)
                killed.append(lease.name)
                break
            time.sleep(0.01)
        ray_cluster.remove_node(node, allow_graceful=False)

    node = ray_cluster.add_node(num_cpus=1)
    thread = threading.Thread(target=kill)
    thread.start()
    options = ("--option", f"address={ray_cluster.address}", "--option", "num_cpus=1")
    done = ovbench("sweep", "start", tmp_path, "--on", "ray", *options)
    thread.join()
    assert done.code == 0 and len(killed) == 1, done.err
    assert text_of(tmp_path) == plain and len(lines(tmp_path)) == IMAGES
    assert list(tmp_path.glob("sweep/*/tasks/*.lost"))


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=f"no Slurm: {missing()}")
def test_a_real_slurm_of_one_node(ovbench, plain, tmp_path, monkeypatch):  # noqa: F811
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "runs"
    with one_node_slurm(tmp_path / "slurm") as config:
        monkeypatch.setenv("SLURM_CONF", str(config))
        code = "from ovbench.evaluation.distributed import shard_of_environment; print(*shard_of_environment().shard)"
        srun = ["srun", "-n", "2", sys.executable, "-c", code]
        shards = subprocess.run(srun, capture_output=True, text=True, check=True)
        assert sorted(shards.stdout.split("\n")[:-1]) == ["1 2", "2 2"]
        plan(ovbench, out, "--minutes", "9")
        started = ovbench("sweep", "start", out, "--on", "slurm", "--workers", 2, "--option", "cpus_per_task=1")
        assert started.code == 0 and "2 workers submitted" in started.out, started.err
        job = started.out.split("submitted: ")[1].split(",")[0]
        requeued = False
        deadline = time.monotonic() + 400
        while not ovbench("sweep", "watch", out, "--once", "--json").json()["finished"]:
            assert time.monotonic() < deadline, [log.read_text() for log in (out / "sweep" / "logs").glob("*.err")]
            if lines(out) and not requeued:
                subprocess.run(["scontrol", "requeue", job], check=True)  # as after a preemption
                requeued = True
            time.sleep(0.5)
    assert requeued and text_of(out) == plain and len(lines(out)) == IMAGES
    assert ovbench("sweep", "watch", out).code == 0
