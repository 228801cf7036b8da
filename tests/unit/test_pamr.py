"""PAMR: the same numbers as the convolution form, whatever the chunks, and what the borders and iterations mean."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ovbench.inference import pamr as module
from ovbench.inference.pamr import affinities, pamr

BENCH = Path(__file__).parents[2] / "scripts" / "bench" / "pamr.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_pamr", BENCH)
    loaded = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH.parent)  # as for a script that is run
        spec.loader.exec_module(loaded)
    return loaded


def inputs(queries, h, w):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(queries, h, w, generator=generator), torch.randn(3, h, w, generator=generator)


@pytest.mark.quick(2)
@pytest.mark.parametrize("dilations", [(8, 16), (1, 2, 4, 8, 12, 24), (3,)])
@pytest.mark.parametrize("size", [(30, 41), (5, 60)])
def test_equals_the_convolution_form(bench, dilations, size):
    scores, guide = inputs(7, *size)
    expected = bench.pamr_by_convolution(scores, guide, dilations, 4)
    torch.testing.assert_close(pamr(scores, guide, dilations, 4), expected, atol=2e-6, rtol=2e-6)


def test_the_result_does_not_depend_on_the_chunks(monkeypatch):
    scores, guide = inputs(9, 24, 31)
    whole = pamr(scores, guide, (2, 5), 3)
    monkeypatch.setattr(module, "CHUNK_CPU", 2 * 24 * 31)
    assert torch.equal(pamr(scores, guide, (2, 5), 3), whole)


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_weights_do_not_depend_on_the_tiles(monkeypatch, rows):
    _, guide = inputs(1, 24, 31)
    whole = affinities(guide, (2, 5))
    monkeypatch.setattr(module, "TILE", rows * 16 * 3 * 31)
    torch.testing.assert_close(affinities(guide, (2, 5)), whole, atol=1e-6, rtol=1e-6)


def test_weights_sum_to_one_and_constant_scores_stay():
    _, guide = inputs(1, 20, 20)
    torch.testing.assert_close(affinities(guide, (2, 4)).sum(0), torch.ones(20, 20))
    constant = torch.full((2, 20, 20), 0.3)
    torch.testing.assert_close(pamr(constant, guide, (2, 4), 10), constant)


def test_a_constant_image_has_equal_weights():
    weights = affinities(torch.zeros(3, 12, 12), (1, 2))
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 16))


def test_scores_do_not_cross_an_edge():
    guide = torch.zeros(3, 16, 16)
    guide[:, :, 8:] = 5
    scores = torch.zeros(1, 16, 16)
    scores[:, :, 8:] = 1
    torch.testing.assert_close(pamr(scores, guide, (1, 2), 10), scores, atol=1e-3, rtol=0)


def test_inputs_are_left_alone_and_no_iterations_change_nothing():
    scores, guide = inputs(2, 10, 10)
    before = scores.clone(), guide.clone()
    pamr(scores, guide, (1,), 2)
    assert torch.equal(scores, before[0]) and torch.equal(guide, before[1])
    assert torch.equal(pamr(scores, guide, (1,), 0), scores)


def test_windows_refined_together_are_those_refined_alone():
    generator = torch.Generator().manual_seed(3)
    scores, guides = (torch.rand(3, count, 12, 15, generator=generator) for count in (4, 3))
    refinement = module.PAMR(2, (1, 3))
    together = refinement.refine_together(scores, guides)
    torch.testing.assert_close(together, refinement.refine_windows(scores, guides))
    assert (together[1] - refinement.refine(scores[1], refinement.weights(guides[2]))).abs().max() > 0.01


@pytest.mark.parametrize("dilations", [(8, 16), (1, 3, 2)])
def test_the_form_for_a_gpu_is_the_form_for_a_cpu(dilations):
    generator = torch.Generator().manual_seed(4)
    maps, guides = (torch.rand(2, count, 12, 15, generator=generator) for count in (4, 3))
    refinement = module.PAMR(3, dilations)
    expected = refinement.refine_together(maps, guides)
    module._iterate_by_rings(maps, refinement.weights(guides), dilations, 3)
    torch.testing.assert_close(maps, expected)
