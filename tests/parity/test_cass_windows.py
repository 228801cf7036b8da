"""CASS against the official code: one window of two cases from the keys on; and both ways of taking the low rank."""

from pathlib import Path

import pytest
import torch
from official_arrays import OfficialArrays

from ovbench.methods.base import Backbones, Queries
from ovbench.methods.cass import CASS
from ovbench.methods.naclip import neighbourhood
from ovbench.methods.presence import PresenceFeatures, members
from ovbench.methods.tower_params import CASSParams
from ovbench.parity.adapters.cass import AFTER_DRAWS, SameDraws
from ovbench.parity.check import check_case
from ovbench.parity.compare_stages import NOT_COMPUTED, PASS

WINDOWS = Path(__file__).parents[1] / "data" / "parity" / "cass_window"
FULL = Path(__file__).parents[3] / "shared" / "parity" / "cass"


class Window(OfficialArrays):
    """An official window with its settings and tolerances."""

    def __init__(self, name):
        super().__init__(WINDOWS / f"{name}.npz")
        p = self.origin["params"]
        self.params = CASSParams(
            gamma=p["global_semantics_weight"], alpha=p["mean_vector_weight"], cluster_distance=p["h_threshold"],
            stretch=p["svd_rescaling"], class_token="window", gaussian_std=p["gaussian_std"],
        )  # fmt: skip
        self.grid = tuple(self["window_logits"].shape[1:])

    def check(self, name, ours, variant="atol"):
        stage = self.origin["stages"][name]
        atol = stage.get(variant, stage["atol"])
        torch.testing.assert_close(
            ours.double(), self[name].double(), atol=atol, rtol=stage["rtol"], msg=lambda text: f"{name}: {text}"
        )


@pytest.fixture(params=["city_pamr", "voc21_whole"])
def window(request):
    return Window(request.param)


def distil(window, method):
    notes = {}
    k = window["w_clip_keys"][None]
    graph = k.shape[-1] ** -0.5 * k @ k.mT
    fused = method.distil(graph, k, window["w_dino_keys_mapped"][None], notes.__setitem__)
    omega = neighbourhood(window.grid, window.params.gaussian_std)[1:, 1:]
    return notes | {"attention": (fused + omega).softmax(-1)}


@pytest.mark.quick(1)
@pytest.mark.parametrize("draws", [False, True], ids=["exact", "same_draws"])
def test_attention_from_the_keys(window, draws):
    variant = "atol_same_draws" if draws else "atol"
    method = (SameDraws if draws else CASS)(Backbones(), window.params)
    if draws:
        method.use(window["draws"][None].double())
    notes = distil(window, method)
    for name in ("dino_spectrum", "clip_spectrum", "distance"):
        window.check(name, notes[name][0])
    assert notes["pairs"][0].tolist() == window["match"].tolist()
    window.check("match_weight", notes["pair_weight"][0])
    for name in ("singular_values", "singular_values_scaled"):
        window.check(name, notes[name][0], variant)
    for name in ("dino_graph", "fused", "attention"):
        window.check(f"w_{name}", notes[name][0, :1], variant)


def test_scores_from_the_features(window):
    method = CASS(Backbones(), window.params)
    text = window["text"]
    queries = method.map_queries(Queries(text, torch.arange(len(text))))
    assert queries.clusters.tolist() == members(window["clusters"]).tolist()
    features = PresenceFeatures(window["w_patch_feature"][None], window.grid, window["global_vector"])
    presence = method.presence_scores(features, queries)
    window.check("global_similarity", presence[0])
    winners, adjusted = method.move_queries(features, queries, presence, features.tokens @ text.T)
    assert sorted(winners[0].tolist()) == window["adjusted"].nonzero().flatten().tolist()
    window.check("w_adjusted_text", text.index_put((winners[0],), adjusted[0]))
    window.check("window_logits", method.score(features, queries)[0], "atol_same_draws")


@pytest.mark.quick(2)
@pytest.mark.parametrize("other", [{"matching": "similar"}, {"matching": "sequential"}, {"swap": False}])
def test_other_pairs_are_other_attention(window, other):
    official = distil(window, CASS(Backbones(), window.params))
    params = CASSParams(**{**window.params.__dict__, **other})
    changed = distil(window, CASS(Backbones(), params))
    assert (official["attention"] - changed["attention"]).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.skipif(not FULL.is_dir(), reason="the official cases lie beside the checkout only")
def test_a_case_is_judged_by_both_decompositions():
    rows = {row.stage: row for row in check_case(FULL / "city_pamr").rows}
    both = {f"{name} (same draws)" for name in AFTER_DRAWS} | {"labels (exact svd)"}
    assert both <= set(rows)
    assert {row.verdict for row in rows.values()} == {PASS} and NOT_COMPUTED not in rows
    assert rows["window_logits (same draws)"].atol < rows["window_logits"].atol
