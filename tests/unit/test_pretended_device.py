"""Every method on a pretended GPU: no operation on two devices, the labels of the CPU, and few waits of the host."""

import os
from functools import partial

import numpy as np
import pytest
import torch
from pretended_device import DEVICE, pretended
from torchvision.ops import nms

from ovbench.config.load import resolve
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.inference import decision, window_cells
from ovbench.inference.pipeline import build_pipeline
from ovbench.inference.precision import Execution, execute
from ovbench.utils.errors import UsageError
from ovbench.utils.provenance import choose_device
from ovbench.utils.registry import METHODS
from ovbench.utils.upload import upload

# Waits of the host for one image in shared batches. A number may only fall: the goal is 1, the labels.
WAITS = {"cass": 4, "corrclipv2": 2, "freecp": 3, "ovstitcher": 3}
# Kernels for two windows; a number may only fall.
LAUNCHES = {"cass": 459, "clearclip": 149, "clip": 155, "corrclip": 397, "corrclipv2": 439, "dihclip": 252,
            "freecp": 440, "gem": 325, "glaclip": 281, "lposs": 549, "maskclip": 153, "maskclip-freecp": 152,
            "naclip": 226, "ovstitcher": 557, "pearl": 713, "proxyclip": 239, "reme": 169, "rfclip": 580,
            "scclip": 242, "sclip": 153, "sclip-freecp": 156, "sfp": 254, "talk2dino": 267}  # fmt: skip
SETTINGS = {"talk2dino": {"refine": "pamr-windows"}}
# OVBENCH_EVERY_METHOD=1 runs all, which takes minutes
CHOSEN = METHODS.names() if os.environ.get("OVBENCH_EVERY_METHOD") else ["corrclip", "rfclip"]


def windows_in_a_row(cell, number):
    """Return a part of an image that has so many windows, if its short side becomes that of a window."""
    image = open_dataset(load_card("mini")).read_image(0)
    crop, stride = cell.protocol.crop or 96, cell.protocol.stride
    return image[60 : 60 + 200 * crop // (crop + stride * (number - 1)), :200]


@pytest.mark.parametrize("known_bad", ["mixed", "numpy", "index", "event"])
def test_what_a_gpu_refuses_is_refused(known_bad):
    here = torch.ones(2, 3)
    with pretended(), torch.inference_mode():
        there = here.to(DEVICE)
        with pytest.raises((RuntimeError, TypeError)):
            if known_bad == "mixed":
                there + here
            elif known_bad == "numpy":
                there.numpy()
            elif known_bad == "event":
                torch.cuda.Event().record()
            else:
                here[there.long()]


def test_waits_are_counted():
    with pretended() as device, torch.inference_mode():
        there = torch.arange(6.0).pin_memory().to(DEVICE, non_blocking=True).view(2, 3)
        assert there.device == DEVICE and not device.waits
        choose = partial(nms, there.new_zeros(1, 4), there.new_zeros(1), 0.5)
        select, decide = (lambda: there[there > 1]), (lambda: bool(there.any()))
        for wait in (there.sum().item, there.cpu, there.nonzero, select, decide, choose):
            before = device.waits.total()
            wait()
            assert device.waits.total() == before + 1
        np.testing.assert_array_equal(there[1:, None, [0, 2]].cpu(), [[[3, 5]]])


def test_any_device_of_torch_is_taken_or_refused_by_name():
    with pytest.raises(UsageError, match=r'no device "mps" here .*use --device cpu'):
        choose_device("mps")
    for name in ("meta", "vulkan", "no_such_thing"):
        with pytest.raises(UsageError, match=f'no device "{name}" here'):
            choose_device(name)
    assert choose_device("cpu:0") == "cpu:0"
    assert upload(np.ones(3), torch.device("meta")).device.type == "meta"


def test_a_device_without_fp64_is_refused_by_methods_that_need_it():
    with pytest.raises(UsageError, match=r"cass computes in float64, which mps:0 does not have \(--device\)"):
        build_pipeline(resolve("cass", "mini"), device="mps:0")


@pytest.mark.slow
def test_a_large_vocabulary_makes_no_host_wait(monkeypatch):
    monkeypatch.setattr(window_cells, "FEWEST_QUERIES", 2)
    monkeypatch.setattr(decision, "TILE_GPU", 1 << 17)
    tiles, used = window_cells._by_tiles, []
    monkeypatch.setattr(window_cells, "_by_tiles", lambda *given: used.append(tiles(*given)))
    cell = resolve("clearclip", "mini")
    pipeline, image = build_pipeline(cell), open_dataset(load_card("mini")).read_image(0)
    expected = pipeline.label(image)
    with pretended() as device, torch.inference_mode():
        batcher = build_pipeline(cell, device=str(DEVICE)).predictor.batcher(8)
        list(batcher.add(0, image)), list(batcher.flush())
        device.waits.clear()
        (prediction,) = (*batcher.add(1, image), *batcher.flush())
        assert not device.waits
        found = prediction.labels
    assert (found[0] == expected).mean() > 0.999 and len(np.unique(expected)) > 2 and len(used) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", CHOSEN)
def test_methods_on_a_pretended_device(method, own_mini, monkeypatch):
    monkeypatch.setattr("ovbench.training.reference_set.mini_set.IMAGES", 8)  # of the set of reme
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    cell = resolve(method, "mini-bg")
    size = {"short_side": cell.protocol.crop} if cell.protocol.crop else {}
    cell = resolve(method, "mini-bg", {**size, **SETTINGS.get(method, {})})
    pipeline = build_pipeline(cell)
    two, ten = windows_in_a_row(cell, 2), windows_in_a_row(cell, 10)
    regions = [pipeline.regions(image) for image in (two, ten)]
    expected = pipeline.label(ten)
    with pretended() as device, torch.inference_mode():
        pipeline = build_pipeline(cell, device=str(DEVICE))
        in_float64 = device.doubles
        execute(pipeline.method, Execution("fp16"))
        batcher = pipeline.predictor.batcher(8)
        list(batcher.add(0, two, regions[0])), list(batcher.flush())  # uploads constants
        device.launches = 0
        list(batcher.add(1, two, regions[0])), list(batcher.flush())
        launches, device.doubles = device.launches, 0
        device.waits.clear(), device.flops.clear()
        (prediction,) = (*batcher.add(2, ten, regions[1]), *batcher.flush())
        before = device.waits.total()
        found = prediction.labels
    if "CUDA error" in str(found) or "NVIDIA driver" in str(found):
        pytest.skip(f"PyTorch {torch.__version__} asks the driver of a GPU: {found}")
    assert isinstance(found, list), found
    assert (found[0] == expected).mean() > 0.98
    assert device.flops[torch.float16] > 0.2 * device.flops.total()
    assert METHODS.load(method).uses_fp64 or not in_float64 + device.doubles
    assert before < device.waits.total() <= WAITS.get(method, 1), device.waits  # the labels are copied meanwhile
    assert launches <= LAUNCHES[method], launches
