"""Precision and compilation touch the backbones' blocks and nothing else, and unlike runs are not mixed."""

import shutil

import pytest
import torch
from towers import small_towers

from ovbench.backbones.base import Loaded
from ovbench.inference.precision import FP32, Execution, choose_batch, execute, refuse_tf32
from ovbench.methods.base import Backbones, Batch
from ovbench.methods.maskclip import MaskCLIP
from ovbench.utils import provenance as env
from ovbench.utils.errors import UsageError
from ovbench.utils.registry import METHODS

WINDOWS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def towers():
    return Backbones(**{name: tower.float() for name, tower in small_towers().items()})


def tokens(method):
    with torch.inference_mode():
        return method.encode(Batch(WINDOWS)).tokens


def test_fp32_is_the_method_as_it_is(towers):
    method = MaskCLIP(towers)
    trunk = method.clip.trunk
    execute(method, FP32)
    assert method.clip.trunk == trunk


def test_bf16_rounds_the_blocks_and_gives_fp32_back(towers):
    method = MaskCLIP(towers)
    exact = tokens(method)
    seen = []
    method.clip.blocks[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    execute(method, Execution("bf16"))
    rounded = tokens(method)
    assert seen == [torch.bfloat16] and rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1 * exact.abs().max()


def test_dino_runs_in_the_same_precision(towers):
    exact = towers.dino.last_keys(WINDOWS)[0]
    execute(torch.nn.ModuleList([towers.dino]), Execution("bf16"))
    rounded, grid = towers.dino.last_keys(WINDOWS)
    assert grid == (8, 8) and rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1 * exact.abs().max()


def test_compiled_blocks_give_the_same_tokens(towers, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: compiled.append(function.__name__) or function)
    method = MaskCLIP(towers)
    exact = tokens(method)
    execute(method, Execution(compiled=True))
    assert compiled == ["trunk", "states"] and torch.equal(tokens(method), exact)


@pytest.mark.slow
def test_many_grids_need_few_compilations_and_get_the_same_features(monkeypatch):
    from torch._dynamo.testing import CompileCounter

    counter, real = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: real(function, backend=counter, **how))
    torch._dynamo.reset()
    entry, towers = METHODS.load("proxyclip"), {n: tower.float() for n, tower in small_towers(layers=2).items()}
    method = entry(Backbones.of(entry, {n: Loaded.of(t, n) for n, t in towers.items() if n in entry.needs.backbones}))
    grids = [(64, 64), (64, 80), (96, 64), (48, 48), (112, 32)]
    batches = [Batch(torch.randn(2 + n % 3, 3, *size)) for n, size in enumerate(grids)]
    with torch.inference_mode():
        exact = [method.encode(batch).tokens for batch in batches]
        execute(method, Execution(compiled=True))
        found = [method.encode(batch).tokens for batch in batches]
    torch._dynamo.reset()
    assert 0 < counter.frame_count <= 2  # one for each tower
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other)


def test_tf32_is_off_and_the_record_says_what_is_on():
    torch.backends.cudnn.allow_tf32 = True
    refuse_tf32()
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    device = env.device_name("cpu", "bf16", compiled=True)
    assert device["precision"] == "bf16" and device["compile"] is True


def test_batches_are_shared_on_a_gpu_or_where_asked_for():
    assert (choose_batch(None, "cpu"), choose_batch(None, "cuda:1"), choose_batch(16, "cpu")) == (0, 32, 16)
    with pytest.raises(UsageError, match=r"12 is not a multiple of 8 \(--batch\)"):
        choose_batch(12, "cpu")


def test_weights_are_rounded_once_and_the_exact_ones_stay(towers):
    from torch.utils._python_dispatch import TorchDispatchMode

    rounded = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.to) and tuple(args[0].shape) in shapes:
                rounded.append(args[0].shape)
            return func(*args, **(kwargs or {}))

    method = MaskCLIP(towers)
    blocks = method.clip.blocks[:-1]
    products = [m for m in blocks.modules() if isinstance(m, (torch.nn.Linear, torch.nn.MultiheadAttention))]
    weights = [p for m in products for p in m._parameters.values() if p is not None and p.dim() == 2]
    shapes, exact = {tuple(p.shape) for p in weights}, [p.clone() for p in weights]
    execute(method, Execution("bf16"))
    first = tokens(method)
    with Casts():
        second = tokens(method)
    assert rounded == [] and torch.equal(first, second)
    assert all(p.dtype == torch.float32 and torch.equal(p, before) for p, before in zip(weights, exact, strict=True))
    with Casts(), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():  # what it would cost
        products[0](torch.zeros(1, 3, products[0].in_features)) if hasattr(products[0], "in_features") else None
        method.clip.blocks[0].mlp(torch.zeros(1, 3, method.clip.width))
    assert rounded


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("c++") is None, reason="no C++ compiler")
def test_blocks_that_are_really_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    towers = Backbones(**{name: tower.float() for name, tower in small_towers(layers=2).items()})
    method = MaskCLIP(towers)
    exact = tokens(method)
    execute(method, Execution(compiled=True))
    compiled = tokens(method)
    torch._dynamo.reset()
    assert any(tmp_path.rglob("*.so")), "nothing was compiled"
    assert torch.allclose(compiled, exact, atol=1e-5 * float(exact.abs().max()))
