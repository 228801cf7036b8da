"""Time CASS against its unavoidable forward passes; prints JSON.

    python scripts/bench/cass.py --windows 6                       random ViT-B/16 and DINO ViT-B/8, 224 pixels
    python scripts/bench/cass.py --weights clip=mini --weights dino=mini --side 128 --windows 8

These are CLIP up to its last block and DINO up to the keys of its last block, on the same batch of windows.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import torch
from timing import durations, machine, spread
from torch import nn

from ovbench.backbones.build import load_backbone
from ovbench.backbones.clip import ClipVision
from ovbench.backbones.dino import DinoVision
from ovbench.config.load import override_pairs
from ovbench.methods.base import Backbones, Batch, Queries, WindowedImage
from ovbench.methods.cass import CASS
from ovbench.methods.tower_params import CASSParams


def random_towers() -> dict[str, nn.Module]:
    """Return the architectures of the official settings; times do not depend on the weights."""
    import timm
    from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer

    visual = VisionTransformer(
        image_size=224, patch_size=16, width=768, layers=12, heads=12, mlp_ratio=4, output_dim=512,
        act_layer=QuickGELU, norm_layer=partial(LayerNorm, eps=1e-5),
    )  # fmt: skip
    vit = timm.create_model("vit_base_patch8_224.dino", pretrained=False, num_classes=0)
    return {"clip": ClipVision(visual), "dino": DinoVision(vit)}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=MODEL", help="clip and dino")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    a = parser.parse_args()
    named = override_pairs(tuple(a.weights), "--weights")
    towers = {kind: load_backbone(kind, spec).vision for kind, spec in named.items()} or random_towers()
    method = CASS(Backbones(**towers), CASSParams()).to(a.device).eval()
    torch.manual_seed(0)
    text = torch.randn(a.queries, method.clip.visual.proj.shape[1], device=a.device)
    queries = method.map_queries(Queries(nn.functional.normalize(text, dim=-1), torch.arange(a.queries)))
    windows = torch.randn(a.windows, 3, a.side, a.side, device=a.device)
    batch = Batch(windows, context=method.encode_image(WindowedImage(windows[0], (a.side, a.side), ())))
    features, picture = method.encode(batch), method.picture(batch)
    grid = features.grid
    keys = torch.randn(a.windows, method.clip.heads, grid[0] * grid[1], 64, device=a.device)
    graph, of_dino = keys @ keys.mT / 8, method.dino_keys(batch, grid)
    timed = {
        "clip": lambda: method.clip.trunk(method.clip.embed(windows)[0]),
        "dino": lambda: method.dino.last_keys(picture),
        "distillation": lambda: method.distil(graph, keys, of_dino, batch.note),
        "encode": lambda: method.encode(batch),
        "score": lambda: method.score(features, queries),
    }
    times = {name: durations(function, a.repeats, a.device) for name, function in timed.items()}
    seconds = {name: min(each) for name, each in times.items()}
    ratio = (seconds["encode"] + seconds["score"]) / (seconds["clip"] + seconds["dino"])
    result = {
        "weights": named or "random", "windows": a.windows, "side": a.side, "queries": a.queries,
        "machine": machine(a.device), "seconds": seconds,
        "spread": {name: spread(each) for name, each in times.items()}, "over_unavoidable": ratio,
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
