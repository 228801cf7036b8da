"""What a result was made with: versions, revision, device."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ovbench.utils.version import package_version

PACKAGES = (
    "ovbench", "torch", "torchvision", "open_clip_torch", "timm", "segment-anything", "mmsegmentation", "mmengine",
    "mmcv-lite", "numpy", "scipy", "scikit-image", "scikit-learn", "opencv-python", "opencv-python-headless", "pillow",
    "transformers", "faiss-cpu",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Python and the packages that can change a number; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    return found | {package: version_of(package) for package in PACKAGES}


def version_of(package: str) -> str | None:
    """The installed version of a distribution; None where there is none."""
    if package == "ovbench":
        return package_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> dict[str, object] | None:
    """Commit of the checkout that the package runs from and whether its files were changed; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def device_name(device: str, precision: str = "fp32", *, compiled: bool = False, batch: int = 0) -> dict[str, object]:
    """The device in words, with what decides the numbers on it."""
    import torch

    kind = torch.device(device).type
    facts: dict[str, object] = {"type": kind, "precision": precision, "compile": compiled, "batch": batch}
    if kind == "cuda":
        tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        return facts | {"name": torch.cuda.get_device_name(device), "tf32": tf32}
    return facts | {"name": _processor(), "threads": torch.get_num_threads()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory(device: str) -> dict[str, int | None]:
    """Bytes at the peak so far: resident memory of this process, and memory allocated on the GPU."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    on_gpu = torch.cuda.max_memory_allocated(device) if torch.device(device).type == "cuda" else None
    return {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "device_bytes": on_gpu}


def choose_device(name: str, local_rank: int = 0) -> str:
    """``auto`` is the GPU where there is one, in a team the one of this process' rank on its machine. UsageError for a
    device that this machine lacks."""
    import torch

    from ovbench.utils.errors import UsageError

    if name == "auto":
        gpus = torch.cuda.device_count()
        return f"cuda:{local_rank % gpus}" if gpus else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f'no device "{name}" here ({str(error).splitlines()[0]})', fix="use --device cpu") from None
    return name
