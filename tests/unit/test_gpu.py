"""Every method on a real GPU gives the labels of the CPU, but for pixels whose two best scores nearly tie."""

import pytest
import torch

from ovbench.config.load import resolve
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.inference.pipeline import build_pipeline
from ovbench.inference.precision import Execution, execute
from ovbench.utils.registry import METHODS

EQUAL = {"fp32": 0.999, "fp16": 0.98}


def agreement(method: str, precision: str, device: str) -> float:
    """The share of pixels of an image of mini that get the label of the CPU in fp32."""
    image, cell = open_dataset(load_card("mini")).read_image(0), resolve(method, "mini")
    on_cpu, on_device = build_pipeline(cell), build_pipeline(cell, device=device)
    execute(on_device.method, Execution(precision))
    return float((on_device.label(image) == on_cpu.label(image)).mean())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", EQUAL)
@pytest.mark.parametrize("method", METHODS.names())
def test_a_method_on_a_gpu_gives_the_labels_of_the_cpu(method, precision, own_mini):
    assert agreement(method, precision, "cuda") > EQUAL[precision]


@pytest.mark.slow
def test_the_comparison_runs_without_a_gpu(own_mini):
    assert agreement("clip", "fp32", "cpu") == 1 > agreement("clip", "bf16", "cpu")
