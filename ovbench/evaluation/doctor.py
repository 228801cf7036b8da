"""Check this machine: list what ovbench finds, problems, and how to fix them."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.inference.cache import entries
from ovbench.utils import provenance as env
from ovbench.utils.errors import OvbenchError
from ovbench.utils.paths import cache_root
from ovbench.utils.text import size_text

LOW_DISK = 5 * 2**30  # bytes: enough for the weights of one method and the region maps of one benchmark


class Finding(NamedTuple):
    """A fact with its state: "ok", "note" (an option is missing), "warning" or "problem" (a command will fail)."""

    area: str
    state: str
    what: str
    fix: str = ""


def examine(data_root: Path | None = None) -> list[Finding]:
    """Run all checks; an error in one becomes a finding."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python, lambda: known_bad(env.versions()), _imports, _devices, _cache, lambda: _data(data_root), _weights,
        _plugins,
    )  # fmt: skip
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except OvbenchError as error:
            findings.append(Finding("settings", "problem", error.what, error.fix or ""))
    return findings


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"Python {platform.python_version()}")


def _number(version: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", (version or "").split("+")[0])[:3])


def known_bad(versions: Mapping[str, str | None]) -> Iterator[Finding]:
    """Find packages that are missing or do not work together; ``versions``: see `ovbench.utils.provenance.versions`."""
    optional = {"mmcv-lite", "opencv-python-headless", "transformers", "faiss-cpu"}  # of extras, or reported below
    for name, version in versions.items():
        if version is None and name not in optional:
            yield Finding("packages", "problem", f"{name} is not installed", f"pip install {name}")
        elif version is not None and name != "python":
            yield Finding("packages", "ok", f"{name} {version}")
    lite, full = versions.get("mmcv-lite"), env.version_of("mmcv")
    if lite and full:
        yield Finding("packages", "warning", "mmcv and mmcv-lite are both installed", "pip uninstall mmcv-lite")
    if lite is None and full is None:
        yield Finding("packages", "problem", "mmcv is not installed", "pip install mmcv-lite==2.1.0")
    for name, version in (("mmcv-lite", lite), ("mmcv", full)):
        if version and _number(version) >= (2, 2):
            what = f"{name} {version}: mmsegmentation {versions.get('mmsegmentation')} refuses 2.2 and newer"
            yield Finding("packages", "problem", what, f"pip install {name}==2.1.0")
    torch, numpy = _number(versions.get("torch")), _number(versions.get("numpy"))
    if torch and numpy >= (2,) and torch < (2, 3):
        what = f"torch {versions['torch']} was built for NumPy 1, but {versions['numpy']} is installed"
        yield Finding("packages", "problem", what, 'pip install "numpy<2", or torch 2.3 or newer')
    if versions.get("opencv-python") and env.version_of("opencv-python-headless"):
        what = "opencv-python and opencv-python-headless overwrite each other"
        yield Finding("packages", "warning", what, "pip uninstall opencv-python-headless, then reinstall opencv-python")
    transformers = env.version_of("transformers")
    if transformers is None:
        what = "transformers is not installed: the region sources sam2, mask2former and eomt do not work"
        yield Finding("packages", "note", what, 'pip install "transformers>=4.56"')
    elif _number(transformers) < (4, 56):
        what = f"transformers {transformers} is older than 4.56: the region source sam2 does not work"
        yield Finding("packages", "note", what, 'pip install "transformers>=4.56"')


def _imports() -> Iterator[Finding]:
    """Find problems that only an import shows, such as a missing system library."""
    fixes = {
        "cv2": "apt-get install libgl1 libglib2.0-0",
        "torch": "reinstall torch: https://pytorch.org/get-started",
        "ovbench.integrations.mmseg": "reinstall ovbench into a fresh virtual environment",
    }
    for name, fix in fixes.items():
        try:
            importlib.import_module(name)
        except (ImportError, OSError, AssertionError) as error:
            lines = str(error).strip().splitlines()
            yield Finding("packages", "problem", f"import {name}: {lines[0] if lines else type(error).__name__}", fix)


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError):
        return  # `_imports` reports it
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        yield Finding("devices", "ok", f"cuda:{number} {facts.name}, {size_text(facts.total_memory)}")
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        fix = "install a CUDA build of torch that fits the driver: https://pytorch.org/get-started"
        yield Finding("devices", "warning", f"torch {torch.__version__} sees no GPU, but a driver is installed", fix)
    cpu = env.device_name("cpu")
    yield Finding("devices", "ok", f"cpu {cpu['name']}, {cpu['threads']} threads of {os.cpu_count()}")


def _cache() -> Iterator[Finding]:
    root = cache_root()
    there = next(path for path in (root, *root.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        what = f"the cache {root} cannot be written: {error.strerror}"
        yield Finding("cache", "problem", what, "set OVBENCH_CACHE to a folder that you can write")
        return
    sizes = [entry.size for entry in entries()]
    yield Finding("cache", "ok", f"{root}: {len(sizes)} entries, {size_text(sum(sizes))}")
    free = shutil.disk_usage(there).free
    if free < LOW_DISK:
        fix = "free space (ovbench cache ls), or set OVBENCH_CACHE to another disk"
        yield Finding("disk", "warning", f"{size_text(free)} free for the cache", fix)
    else:
        yield Finding("disk", "ok", f"{size_text(free)} free for the cache")


def _data(data_root: Path | None) -> Iterator[Finding]:
    from ovbench.data.availability import dataset_rows
    from ovbench.data.find import data_roots

    remedies = {
        "absent": ("note", "see docs/datasets.md"),
        "unprepared": ("warning", "run: ovbench data prepare {name}"),
        "incomplete": ("warning", "run: ovbench data verify {name}"),
        "present": ("ok", "to check it, run: ovbench data verify {name}"),
    }
    if not data_roots(data_root):
        fix = "set OVBENCH_DATA or give --data-root; mini needs neither"
        yield Finding("data", "note", "no data root is given", fix)
    for row in dataset_rows(data_root):
        if row["broken"]:
            continue  # `_plugins` reports it
        state, fix = remedies.get(row["state"], ("ok", ""))
        place = f", {row['root']}" if row["root"] else ""
        yield Finding("data", state, f"{row['name']}: {row['state']}{place}", fix.format(name=row["name"]))


def _plugins() -> Iterator[Finding]:
    """List plug-ins; a broken one is only a warning, because only its users need it."""
    from ovbench.data.card import ENTRY_POINTS, load_card
    from ovbench.utils.registry import BACKBONES, METHODS, REGIONS, broken_names, entry_points

    groups: dict[str, tuple[str, Callable[[str], object]]] = {
        registry.kind: (registry.group, registry.load) for registry in (METHODS, BACKBONES, REGIONS)
    }
    groups["dataset"] = (ENTRY_POINTS, load_card)
    for kind, (group, load) in groups.items():
        broken = broken_names(group, load)
        for name in sorted({point.name for point in entry_points(group)} - broken.keys()):
            yield Finding("plug-ins", "ok", f"{kind} {name}")
        for name, reason in broken.items():
            what, _, fix = reason.rpartition("; ")
            yield Finding("plug-ins", "warning", what or f"{kind} {name}: {reason}", fix)


def _weights() -> Iterator[Finding]:
    """List published weights; those with a published hash are downloaded on first use."""
    from ovbench.backbones import hub
    from ovbench.config.published_weights import published

    if hub.offline():
        yield Finding("weights", "note", "downloads are switched off", "unset HF_HUB_OFFLINE to download weights")
    for backbone in _with_names():
        for name in backbone.names():
            try:
                absent, fix = backbone.missing(name), "downloaded on first use"
            except OvbenchError as error:
                absent, fix = [name], error.fix or ""
            yield _weight_finding(f"{backbone.name} {name}", not absent, fix)
    for name in published("sam"):
        yield _weight_finding(f"sam {name}", hub.published_file("sam", name).is_file(), "downloaded on first use")


def _with_names() -> Iterator[Any]:
    """Yield one backbone of each table of short names; `_plugins` reports broken ones."""
    from ovbench.utils.registry import BACKBONES

    tables = set()
    for name in sorted(BACKBONES.entries().keys() - BACKBONES.broken().keys()):
        backbone = BACKBONES.load(name)
        table = getattr(backbone, "table", "")
        if table and table not in tables:
            tables.add(table)
            yield backbone


def _weight_finding(what: str, here: bool, fix: str) -> Finding:
    return Finding("weights", "ok", f"{what}: present") if here else Finding("weights", "note", f"{what}: absent", fix)
