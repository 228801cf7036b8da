"""Describe the origin of a result: package versions, revision, device."""

from __future__ import annotations

import functools
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ovbench.utils.version import package_version

PACKAGES = (
    "ovbench", "torch", "torchvision", "open_clip_torch", "timm", "segment-anything", "mmsegmentation", "mmengine",
    "mmcv-lite", "numpy", "scipy", "scikit-image", "opencv-python", "opencv-python-headless", "pillow",
    "transformers", "faiss-cpu",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that can change a number.

    Returns:
        Version by package; None for a package that is not installed.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    return found | {package: version_of(package) for package in PACKAGES}


@functools.cache  # every record and forecast asks for all packages
def version_of(package: str) -> str | None:
    """Return the installed version of a package.

    Args:
        package: Name of the distribution.

    Returns:
        The version, or None if it is not installed.
    """
    if package == "ovbench":
        return package_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> dict[str, object] | None:
    """Return the commit of the checkout that the package runs from.

    Returns:
        The commit and whether tracked files were changed; None outside a checkout.
    """
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


def device_name(device: str, precision: str = "fp32", *, compiled: bool = False, batch: int = 0) -> dict[str, Any]:
    """Describe a device and the settings on which results on it depend.

    Args:
        device: A device of torch.
        precision: The precision of the networks.
        compiled: Whether the networks are compiled.
        batch: Number of windows per batch.

    Returns:
        The facts, for the record.
    """
    import torch

    kind = torch.device(device).type
    facts: dict[str, Any] = {"type": kind, "precision": precision, "compile": compiled, "batch": batch}
    if kind == "cuda":
        tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        return facts | {"name": torch.cuda.get_device_name(device), "tf32": tf32}
    if hasattr(driver(device), "get_device_name"):
        return facts | {"name": model_of_device(device)}
    return facts | {"name": _processor(), "threads": torch.get_num_threads()}


def model_of_device(device: str) -> str:
    """Return the name of the model of a GPU, or the type of another device.

    Args:
        device: A device of torch.
    """
    import torch

    name = getattr(driver(device), "get_device_name", None)
    return torch.device(device).type if name is None else name(device)


def driver(device: str) -> Any:
    """Return the module of torch for the type of a device, such as ``torch.cuda``; None for the CPU.

    Args:
        device: A device of torch.
    """
    import torch

    kind = torch.device(device).type
    return None if kind == "cpu" else getattr(torch, kind, None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory(device: str) -> dict[str, int | None]:
    """Return the peak memory of this process so far.

    Args:
        device: A device of torch.

    Returns:
        Resident bytes on the host, and bytes allocated on the GPU (None without a GPU that counts them).
    """
    unit = 1 if sys.platform == "darwin" else 1024
    largest = getattr(driver(device), "max_memory_allocated", None)
    on_gpu = None if largest is None else largest(device)
    return {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "device_bytes": on_gpu}


def choose_device(name: str, local_rank: int = 0) -> str:
    """Choose the device.

    Args:
        name: A device of torch, or "auto" for the GPU of the local rank, otherwise the CPU.
        local_rank: Rank of this process on its machine.

    Raises:
        UsageError: If the machine has no such device.
    """
    import torch

    from ovbench.utils.errors import UsageError, first_line

    if name == "auto":
        gpus = torch.cuda.device_count()
        return f"cuda:{local_rank % gpus}" if gpus else "cpu"
    try:
        torch.ones(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(f'no device "{name}" here ({first_line(error)})', fix="use --device cpu") from None
    return name


def use_device(device: str) -> None:
    """Make a GPU the current one of this process, for code that does not name a device.

    Args:
        device: A device of torch.
    """
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)
