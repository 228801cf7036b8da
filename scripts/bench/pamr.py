"""Time PAMR against the plain convolution form, in one process and on the same input; prints JSON.

python scripts/bench/pamr.py --queries 60 --size 336 448
"""

from __future__ import annotations

import argparse
import json

import torch
import torch.nn.functional as F
from timing import durations, machine, spread
from torch import Tensor

from ovbench.inference.pamr import OFFSETS, pamr


def pamr_by_convolution(scores: Tensor, guide: Tensor, dilations: tuple[int, ...], iterations: int) -> Tensor:
    """Refine scores as the code of its authors does.

    Dilated convolutions with one-hot kernels gather all neighbours, float (Q, neighbours, H, W), in every iteration.
    """
    picks = torch.zeros(len(OFFSETS), 1, 3, 3, dtype=guide.dtype, device=guide.device)
    for number, (dy, dx) in enumerate(OFFSETS):
        picks[number, 0, 1 + dy, 1 + dx] = 1
    differences, everything = picks.clone(), torch.zeros(9, 1, 3, 3, dtype=guide.dtype, device=guide.device)
    differences[:, 0, 1, 1] = -1
    everything.view(9, 9).fill_diagonal_(1)

    def gather(maps: Tensor, kernel: Tensor) -> Tensor:
        rings = [F.conv2d(F.pad(maps[:, None], (d,) * 4, mode="replicate"), kernel, dilation=d) for d in dilations]
        return torch.cat(rings, 1)

    std = gather(guide, everything).std(1, keepdim=True)
    weights = (-gather(guide, differences).abs() / (1e-8 + 0.1 * std)).mean(0).softmax(0)
    for _ in range(iterations):
        scores = (gather(scores, picks) * weights).sum(1)
    return scores


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--size", type=int, nargs=2, default=(336, 448))
    parser.add_argument("--dilations", type=int, nargs="+", default=(1, 2, 4, 8, 12, 24))
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    a = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(a.queries, *a.size, generator=generator).to(a.device)
    guide = F.avg_pool2d(torch.randn(3, *a.size, generator=generator), 5, 1, 2).to(a.device)
    arguments = (scores, guide, tuple(a.dilations), a.iterations)
    ours, plain = pamr(*arguments), pamr_by_convolution(*arguments)
    error = float((ours - plain).abs().max())
    del ours, plain
    fast = durations(lambda: pamr(*arguments), a.repeats, a.device)
    slow = durations(lambda: pamr_by_convolution(*arguments), a.repeats, a.device)
    result = {
        "queries": a.queries, "size": list(a.size), "dilations": list(a.dilations), "iterations": a.iterations,
        "machine": machine(a.device), "seconds": min(fast), "seconds_convolution": min(slow),
        "spread": [spread(fast), spread(slow)], "speedup": min(slow) / min(fast), "largest_difference": error,
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
