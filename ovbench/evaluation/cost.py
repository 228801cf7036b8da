"""Measure the cost of labelling: parameters, FLOPs, latency, throughput, memory and energy, warm, on real images."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ovbench.data.dataset import Dataset
from ovbench.inference.pipeline import Pipeline
from ovbench.inference.precision import Execution
from ovbench.regions.provider import open_regions
from ovbench.utils import provenance as env

IMAGES = 10  # the first of the dataset
WARM = 2  # images that are labelled before the clock starts
COUNTED = 3  # images whose FLOPs are counted


class LoadedImages(NamedTuple):
    """Images uint8 (H, W, 3) with their region maps, int32 (H, W) or None, and the seconds to make each map."""

    images: list[np.ndarray]
    regions: list[np.ndarray | None]
    region_seconds: list[float]


def measure_cost(
    pipeline: Pipeline, dataset: Dataset, numbers: Sequence[int], execution: Execution, device: str
) -> dict[str, Any]:
    """Measure the cost of a pipeline on the first images of a dataset.

    Args:
        pipeline: The pipeline, with one vocabulary, on its device.
        dataset: The images.
        numbers: Positions of the images of the cell.
        execution: Precision, compilation and batch.
        device: The device.

    Returns:
        The fields of `ovbench.evaluation.record.CostFields`.
    """
    loaded = _load(pipeline, dataset, numbers[:IMAGES], device)
    label = pipeline.predictor.label
    for image, regions in list(zip(loaded.images, loaded.regions, strict=True))[:WARM]:
        label(image, regions)
    if hasattr(env.driver(device), "reset_peak_memory_stats"):
        env.driver(device).reset_peak_memory_stats(device)
    seconds = [
        _seconds(functools.partial(label, image, regions), device)
        for image, regions in zip(loaded.images, loaded.regions, strict=True)
    ]
    with EnergyMeter(device) as energy:
        together = _seconds(lambda: _label_all(pipeline, loaded, execution.batch), device)
    joules = energy.joules
    memory = env.peak_memory(device)
    maps = loaded.region_seconds
    return {
        "images": len(seconds),
        "parameters": count_parameters(pipeline.method),
        **count_flops(label, loaded)._asdict(),
        "latency_s": round(statistics.median(seconds), 6),
        "regions_s": round(statistics.median(maps), 6) if maps else None,
        "images_per_s": round(len(seconds) / together, 4),
        "peak_device_bytes": memory["device_bytes"],
        "peak_host_bytes": memory["host_bytes"],
        "joules": None if joules is None else round(joules / len(seconds), 3),
        "device": env.device_name(device, execution.precision, compiled=execution.compiled, batch=execution.batch),
    }


def _load(pipeline: Pipeline, dataset: Dataset, numbers: Sequence[int], device: str) -> LoadedImages:
    """Read images and make their region maps without the cache; the first map loads the networks and is not timed."""
    pictures = [dataset.read_image_file(number).pixels for number in numbers]
    regions: list[np.ndarray | None] = []
    if not pipeline.cell.regions:
        return LoadedImages(pictures, [None] * len(pictures), [])
    maps = open_regions(pipeline.cell.regions, device, cache=False)
    items = {item.id: item.image_path for item in dataset.items}
    maps.expect(items, [dataset.items[number].id for number in numbers])
    paths = [dataset.items[number].image_path for number in numbers]
    maps(pictures[0], paths[0])
    seconds = []
    for picture, path in zip(pictures, paths, strict=True):
        start = time.perf_counter()
        regions.append(maps(picture, path))
        seconds.append(time.perf_counter() - start)
    return LoadedImages(pictures, regions, seconds)


def _seconds(run: Callable[[], object], device: str) -> float:
    """Return the seconds of a function, until the device has finished."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if hasattr(env.driver(device), "synchronize"):
        env.driver(device).synchronize()


def _label_all(pipeline: Pipeline, loaded: LoadedImages, batch: int) -> None:
    batcher = pipeline.predictor.batcher(batch)
    for number, (image, regions) in enumerate(zip(loaded.images, loaded.regions, strict=True)):
        list(batcher.add(number, image, regions))
    list(batcher.flush())


def count_parameters(method: torch.nn.Module) -> int:
    """Return the number of parameters of all networks of a method; shared ones count once."""
    return sum(parameter.numel() for parameter in method.parameters())


class Flops(NamedTuple):
    """The floating-point operations of an image, and the share of them in fp16 or bf16; None if there are none."""

    flops: float | None
    half_share: float | None


class HalfFlops(TorchDispatchMode):
    """Count the floating-point operations whose result is fp16 or bf16, by torch's formulas."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count it."""
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None and getattr(result, "dtype", None) in (torch.float16, torch.bfloat16):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def count_flops(label: Callable[..., object], loaded: LoadedImages) -> Flops:
    """Return the floating-point operations per image, by torch's counter: matrix products and convolutions.

    A multiply-add counts as two operations. Fused kernels are switched off, because the counter does not know them all.

    Args:
        label: Labels an image with its region map.
        loaded: The images; the first three are counted.
    """
    chosen = list(zip(loaded.images, loaded.regions, strict=True))[:COUNTED]
    with _unfused(), HalfFlops() as half, FlopCounterMode(display=False) as counter:
        for image, regions in chosen:
            label(image, regions)
    total = counter.get_total_flops()
    return Flops(total / len(chosen), round(half.total / total, 4)) if total else Flops(None, None)


@contextmanager
def _unfused() -> Iterator[None]:
    """Compute attention by matrix products; torch before 2.3 has no such switches, and counts most fused kernels."""
    try:
        from torch.backends import mha
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:
        yield
        return
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), attention_in_own_precision():
            yield
    finally:
        mha.set_fastpath_enabled(fast)


@contextmanager
def attention_in_own_precision() -> Iterator[None]:
    """Let unfused attention compute in the precision of its input, as fused kernels do; torch 2.5 made it fp32."""
    cuda = torch.backends.cuda
    if not hasattr(cuda, "allow_fp16_bf16_reduction_math_sdp"):
        yield
        return
    before = cuda.fp16_bf16_reduction_math_sdp_allowed()
    cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        yield
    finally:
        cuda.allow_fp16_bf16_reduction_math_sdp(before)


class EnergyMeter:
    """The energy that a GPU uses inside a ``with`` block, in joules by NVML; None where NVML does not give it."""

    def __init__(self, device: str):
        self.joules: float | None = None
        self._handle: Any = None
        if torch.device(device).type == "cuda":
            with suppress(Exception):  # no pynvml, no NVML, or a GPU without an energy counter
                import pynvml

                pynvml.nvmlInit()
                index = torch.device(device).index or 0
                uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
                self._read = lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000
                self._read()

    def __enter__(self) -> EnergyMeter:
        self._start = self._value()
        return self

    def __exit__(self, *_: object) -> None:
        end = self._value()
        if self._start is not None and end is not None:
            self.joules = end - self._start

    def _value(self) -> float | None:
        if self._handle is None:
            return None
        try:
            return float(self._read())
        except Exception:  # the driver's errors are of pynvml's own type
            return None
