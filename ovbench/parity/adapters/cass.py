"""Parity of CASS.

The official low-rank graphs are random. A case is compared with the exact graphs of ovbench, and as "same_draws" with
the random algorithm on the matrices that the case drew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ovbench.methods.base import Queries
from ovbench.methods.cass import CASS, take
from ovbench.methods.cass_spectral import Principal, stretch
from ovbench.methods.presence import Presence
from ovbench.methods.tower_params import CASSParams
from ovbench.parity.adapters.common import Values, background, common_values, label
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import backbones
from ovbench.utils.errors import InputError

STRATEGIES = {
    "spectral": {},
    "sequential": {"matching": "sequential"},
    "vanilla": {"attention": "queries"},
}
AFTER_DRAWS = (
    "singular_values", "singular_values_scaled", "w_dino_graph", "w_fused", "w_attention", "w_patch_feature",
    "w_adjusted_text", "window_logits", "logits_full", "logits_pamr", "scores", "labels",
)  # fmt: skip


class SameDraws(CASS):
    """Compute the low rank as ``torch.svd_lowrank`` of torch 2.12, ``A ~ Q Q^T A``, from the matrices of a case."""

    power_iterations = 2

    def use(self, draws: Tensor) -> SameDraws:
        """Set the matrices, float64 (windows, heads of CLIP, N, r), in the order of the windows."""
        self.draws, self.seen = draws, 0
        return self

    def low_rank(self, kd: Tensor, dino: Principal, partner: Tensor, note: Callable[[str, Any], None]) -> Tensor:
        """Return the low-rank graph of each window and head."""
        kd = take(kd, partner)
        graph = (kd.shape[-1] ** -0.5 * kd @ kd.mT).double()
        basis = torch.linalg.qr(graph @ self.draws[self.seen : self.seen + len(kd)]).Q
        self.seen += len(kd)
        for _ in range(self.power_iterations):
            basis = torch.linalg.qr(graph.mT @ basis).Q
            basis = torch.linalg.qr(graph @ basis).Q
        u, s, v = torch.linalg.svd(basis.mT @ graph, full_matrices=False)
        stretched = stretch(s, s >= 0) if self.params.stretch and self.params.matching != "sequential" else s
        note("singular_values", s)
        note("singular_values_scaled", stretched)
        return (((basis @ u) * stretched[..., None, :]) @ v).to(kd)


def cass(case: Case) -> Values:
    """Run a case of CASS."""
    params = _params(case)
    towers = backbones(case)
    values = _values(case, CASS(towers, params))
    values["labels@exact_svd"] = values["labels"]
    if "svd_test_matrices" in case.inputs:
        method = SameDraws(towers, params).use(torch.from_numpy(case.inputs["svd_test_matrices"]).double())
        method.power_iterations = case.params.get("svd_power_iterations", 2)
        same = _values(case, method)
        values |= {f"{name}@same_draws": same[name] for name in AFTER_DRAWS}
    return values


def _params(case: Case) -> CASSParams:
    p = case.params
    known = {
        "attn_strategy": STRATEGIES, "arch": ("reduced",), "topk": (2,), "scale_up": (False,),
        "global_vector": ("whole image", "window"),
    }  # fmt: skip
    for name, choices in known.items():
        if name in p and p[name] not in choices:
            raise InputError(f'no parity check for {name} "{p[name]}" in this version', where=str(case.folder))
    return CASSParams(
        gamma=p["global_semantics_weight"],
        alpha=p["mean_vector_weight"],
        cluster_distance=p["h_threshold"],
        class_token="window" if p["global_vector"] == "window" else "image",
        rank=p.get("svd_rank", 10),
        stretch=p["svd_rescaling"],
        eigenvalues=p.get("k_eigen", 20),
        fusion=p.get("scale_factor", 10.0),
        gaussian_std=p["gaussian_std"],
        **STRATEGIES[p.get("attn_strategy", "spectral")],
    )


def _values(case: Case, method: CASS) -> Values:
    notes, values = presence_values(case, method)
    at = notes.window

    def windows(name: str) -> Tensor:
        return torch.cat(notes.notes[name])

    direct = ("dino_spectrum", "clip_spectrum", "distance", "singular_values", "singular_values_scaled")
    of_window = ("dino_keys", "clip_keys", "dino_keys_mapped", "dino_graph", "fused", "attention")
    values |= {name: lambda w, n=name: windows(n) for name in direct}
    values |= {f"w_{name}": lambda w, n=name: at(n, w) for name in of_window}
    values |= {
        "w_dino_input": lambda w: at("dino_input", w).permute(1, 2, 0),
        "match": lambda w: windows("pairs"),
        "match_weight": lambda w: windows("pair_weight"),
        "logits_pamr": lambda w: notes.once("refined_scores"),
    }
    return values


def presence_values(case: Case, method: Presence) -> tuple[Recorder, Values]:
    """Run a method with the text side of CASS and return its notes and the stages that these methods have."""
    text = torch.from_numpy(case.inputs["text"]).float()
    queries = method.map_queries(Queries(text, torch.tensor(case.class_index()), background(case)))
    notes = label(case, method, queries)
    features = notes.notes["features"]
    adjusted = [method.move_queries(f, queries, f.presence @ text.T, f.tokens @ text.T) for f in features]
    presence = torch.cat([f.presence.expand(len(f.tokens), -1) for f in features])

    def clusters(w: int | None) -> Tensor:
        number = torch.arange(len(queries.clusters))[:, None].expand_as(queries.clusters)
        return torch.zeros(len(text), dtype=torch.int64).index_put((queries.clusters,), number)

    def replaced(w: int | None) -> Tensor:
        winners = torch.cat([winners for winners, _ in adjusted])
        return torch.zeros(len(winners), len(text), dtype=torch.int64).scatter(1, winners, 1)

    def adjusted_text(w: int) -> Tensor:
        winners, vectors = (torch.cat(parts)[w] for parts in zip(*adjusted, strict=True))
        return text.index_put((winners,), vectors)

    values: Values = {
        "w_patch_feature": lambda w: notes.window("features", w),
        "global_vector": lambda w: features[0].presence if method.params.class_token == "image" else presence,
        "global_similarity": lambda w: presence @ text.T,
        "clusters": clusters,
        "adjusted": replaced,
        "w_adjusted_text": adjusted_text,
        "window_logits": lambda w: torch.cat(notes.notes["patch_scores"]),
        "logits_full": lambda w: notes.once("full_scores"),
        "scores": lambda w: notes.once("probabilities"),
    }
    return notes, values | common_values(notes)
