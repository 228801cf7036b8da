"""A Slurm cluster of one node on this machine, from Debian's packages slurmctld, slurmd, slurm-client and munge."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo")
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={first}
SlurmdPort={second}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no cluster can be started here; "" if one can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "needs root"


@contextmanager
def one_node_slurm(folder: Path, cpus: int = 2) -> Iterator[Path]:
    """Start a cluster; yields its configuration, for SLURM_CONF."""
    munge = folder / "munge"
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    (munge / "key").write_bytes(os.urandom(1024))
    for path in (munge, munge / "key"):
        path.chmod(path.stat().st_mode & 0o700)
    first, second = free_ports()
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(CONFIG.format(host=host, folder=folder, first=first, second=second, cpus=cpus))
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    options = {"key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    daemon = ["munged", "--force", f"--socket={folder}/munge.sock"]
    daemon += [f"--{name}={munge / file}" for name, file in options.items()]
    try:
        for command in (daemon, ["slurmctld", "-f", str(config)], ["slurmd", "-f", str(config)]):
            subprocess.run(command, env=environment, check=True)
        wait_until_idle(environment)
        yield config
    finally:
        end_jobs(environment)
        for pid in (folder / "slurmd.pid", folder / "slurmctld.pid", munge / "pid"):
            with suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)


def free_ports() -> list[int]:
    """Two ports that no other process uses now."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def end_jobs(environment: dict[str, str]) -> None:
    """Cancel all jobs and wait for their ends: a daemon that is stopped before leaves their processes behind."""
    subprocess.run(["scancel", "--user=root"], env=environment, check=False)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not subprocess.run(["squeue", "-h"], env=environment, capture_output=True, check=False).stdout:
            return
        time.sleep(0.2)


def wait_until_idle(environment: dict[str, str]) -> None:
    """Until the node takes jobs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, check=False)
        if b"idle" in state.stdout:
            return
        time.sleep(0.5)
    raise TimeoutError("the node of the cluster does not become idle")
