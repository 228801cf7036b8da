"""Count how often CASS's matching of heads ties, on any weights and images; prints JSON.

    python scripts/count_ties.py --dataset mini --limit 20
    python scripts/count_ties.py --dataset voc20 --limit 50 --weights clip=openai-b --weights dino=dino-b8

The assignment with the largest total distance is often not unique: if two heads are on the same side of two others,
exchanging their partners changes nothing. Then rounding decides, and other devices, libraries and number formats may
decide differently; the parameter tie_order of cass breaks ties. A window counts as tied if the total distance of
another assignment is within --tolerance of the best one (sums of H distances in fp32 have errors of about 1e-6).
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from ovbench.backbones.build import load_backbone
from ovbench.config.load import override_pairs, resolve
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Queries
from ovbench.methods.cass import CASS
from ovbench.parity.recorder import Recorder
from ovbench.utils.images import resize_image, resized_size


def gap(distance: np.ndarray) -> float:
    """Return by how much the best assignment of distances, float (G, H), exceeds the second best.

    Each pair of the best assignment is forbidden once. If DINO has fewer heads than CLIP, they are repeated.
    """
    g, h = distance.shape
    distance = np.tile(distance.astype(np.float64), (-(-h // g), 1))
    rows, columns = linear_sum_assignment(distance, maximize=True)
    best = distance[rows, columns].sum()
    others = []
    for row, column in zip(rows, columns, strict=True):
        without = distance.copy()
        without[row % g :: g, column] = -distance.sum()  # worse than any assignment that avoids it
        others.append(without[linear_sum_assignment(without, maximize=True)].sum())
    return float(best - max(others))


def distances(arguments: argparse.Namespace) -> np.ndarray:
    """Return the distances of the first images of a benchmark, float (windows, heads of DINO, heads of CLIP)."""
    weights = override_pairs(tuple(arguments.weights), "--weights")
    cell = resolve("cass", arguments.dataset, {"gamma": "0", "alpha": "0"}, weights)
    towers = {kind: load_backbone(kind, cell.backbones[kind]).vision for kind in ("clip", "dino")}
    if arguments.random:
        torch.manual_seed(arguments.seed)
        for tower in towers.values():
            for parameter in tower.parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    method = CASS(Backbones(**towers), cell.params).to(arguments.device)
    query = Queries(torch.eye(1, towers["clip"].visual.output_dim), torch.zeros(1, dtype=torch.int64))
    predictor = Predictor(method, cell.protocol, [method.map_queries(query)])
    notes = Recorder()
    dataset = open_dataset(load_card(arguments.dataset))
    for number in range(min(arguments.limit, len(dataset))):
        image = dataset.read_image(number)
        size = resized_size(image.shape[:2], cell.protocol.short_side, cell.protocol.long_side)
        predictor.label_resized(resize_image(image, size), image.shape[:2], note=notes)
    return torch.cat(notes.notes["distance"]).cpu().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mini", help="benchmark whose images and settings are used")
    parser.add_argument("--limit", type=int, default=20, help="number of images")
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=MODEL", help="as in ovbench eval")
    parser.add_argument("--random", action="store_true", help="random matrices in the towers instead of their weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=float, default=2e-5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    found = distances(arguments)
    gaps = np.array([gap(window) for window in found])
    result = {
        "dataset": arguments.dataset, "weights": arguments.weights, "random": arguments.random,
        "windows": len(gaps), "heads": list(found.shape[1:]), "tolerance": arguments.tolerance,
        "tied": int((gaps < arguments.tolerance).sum()), "share": float((gaps < arguments.tolerance).mean()),
        "gap_quantiles": {str(q): float(np.quantile(gaps, q)) for q in (0, 0.1, 0.25, 0.5, 0.75, 1)},
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
