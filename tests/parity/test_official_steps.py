"""The steps that only a method has, against its official code: from official tokens to features, scores or regions."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from official_arrays import OfficialArrays
from torch.nn.functional import normalize

from ovbench.backbones.clip import ClipVision
from ovbench.inference.sliding_window import WindowMean
from ovbench.inference.windowed_image import pad_region
from ovbench.methods import self_calibration
from ovbench.methods.base import Backbones, Batch, Queries, WindowedImage
from ovbench.methods.dihclip import DiHCLIP
from ovbench.methods.glaclip import GLACLIP, WindowTokens
from ovbench.methods.lposs import LPOSS, WindowPatches
from ovbench.methods.ops import Box
from ovbench.methods.ovstitcher import OVStitcher
from ovbench.methods.params import DiHCLIPParams, PEARLParams, RFCLIPParams, SCCLIPParams, SFPParams
from ovbench.methods.pearl import PEARL
from ovbench.methods.presence import PresenceFeatures, members
from ovbench.methods.rfclip import RFCLIP
from ovbench.methods.scclip import SCCLIP
from ovbench.methods.sfp import SFP, ClassAttention
from ovbench.methods.support.bank import RegionBank, support_features
from ovbench.methods.support.index_file import Vectors
from ovbench.methods.tower_params import GLACLIPParams, LPOSSParams, OVStitcherParams
from ovbench.parity.adapters.self_calibrated import OF_WINDOW, PER_WINDOW
from ovbench.parity.towers import clip_module
from ovbench.regions.ids import rank_ids

FILES = Path(__file__).parents[1] / "data" / "parity" / "steps"
EVERY = 4  # of sampled arrays, see scripts/extract_official_steps.py


class Steps(OfficialArrays):
    """Official arrays with their settings and tolerances."""

    def __init__(self, method):
        super().__init__(FILES / f"{method}.npz")
        self.params, self.window = self.origin["params"], self.origin["window"]
        assert all(self.origin["official"][key] for key in ("repo", "commit"))

    def check(self, name, ours):
        """Compare all rows, or the rows that were kept, with the tolerance of the case."""
        stage, official = self.origin["stages"][name], self[name].double()
        ours = ours.double()
        if len(ours) != len(official):
            ours = ours[::EVERY]
        torch.testing.assert_close(
            ours, official, atol=stage["atol"], rtol=stage["rtol"], msg=lambda text: f"{name}: {text}"
        )

    def tower(self):
        """Return CLIP with the weights that the file has; the others are random and not used."""
        torch.manual_seed(0)
        visual = clip_module(self.origin["models"]["clip"])
        given = {key.removeprefix("weight."): v.float() for key, v in self.arrays.items() if key.startswith("weight.")}
        assert given and not visual.load_state_dict(given, strict=False).unexpected_keys
        return ClipVision(visual)

    def queries(self):
        text = self["text"]
        index = [number for number, names in enumerate(self.origin["classes"]) for _ in names]
        return Queries(text, torch.tensor(index if len(index) == len(text) else range(len(text))))


# Self-calibration: SC-CLIP, SFP and DiH-CLIP


def calibrated(steps, make, params, tokens, similarity, monkeypatch):
    """Run the steps of a method on official tokens and similarities; return its notes and window scores."""
    p = steps.params
    first, last = p["multi_levels"] if "multi_levels" in p else (p["multi_start_idx"], p["multi_end_idx"] - 1)
    levels = {"pre_level": p.get("pre_adjust_idx", p.get("pre_level")), "multi_start": first, "multi_end": last + 1}
    levels["post_level"] = p.get("post_adjust_idx", p.get("post_level"))
    levels = {name: value for name, value in levels.items() if value is not None}
    method = make(Backbones(clip=steps.tower()), params(**levels, res_cls=p["res_cls"], beta=p.get("beta", 0.4)))
    grid, notes = tuple(steps["window_logits"].shape[1:]), {}
    t = dict.fromkeys(range(-1, method.clip.layers), torch.zeros_like(tokens)[None])
    rest = steps["w_multi_sum"] - (tokens if method.last_level <= last else 0)  # the levels are only summed
    t |= {method.last_level: tokens[None], first: rest[None]}
    monkeypatch.setattr(method.clip, "embed", lambda windows: (tokens[None], grid))
    monkeypatch.setattr(method, "levels", lambda embedded, watch: t)
    beta, post = p.get("beta", 0.4), steps["w_post_similarity_cut"][None]
    cut = similarity.masked_fill(similarity < beta, 0)[None]
    found = iter([self_calibration.Cosines(similarity[None], cut), self_calibration.Cosines(post, post)])
    monkeypatch.setattr(self_calibration, "cosines", lambda tokens, beta: next(found))
    return method, lambda: scored(method, steps, notes)


@torch.inference_mode()
def scored(method, steps, notes):
    features = method.dense(None, notes.__setitem__)
    notes["patch_feature"] = normalize(features.tokens, dim=-1)
    notes["patch_scores"] = method.score(features, steps.queries())
    return notes


def check_notes(steps, notes):
    compared = 0
    for stage, name in {**OF_WINDOW, **PER_WINDOW, "w_patch_feature": "patch_feature"}.items():
        if stage in steps.arrays and stage in steps.origin["stages"]:
            steps.check(stage, notes[name][0])
            compared += 1
    return compared


def test_scclip(monkeypatch):
    steps = Steps("scclip")
    tokens = steps["w_tokens_before_last"]
    _, run = calibrated(steps, SCCLIP, SCCLIPParams, tokens, steps["w_pre_similarity"], monkeypatch)
    notes = run()
    assert check_notes(steps, notes) == 13
    assert notes["outliers"][0].nonzero()[:, 0].tolist() == [i for i in steps["outliers"].tolist() if i >= 0]


def test_sfp(monkeypatch):
    steps = Steps("sfp")
    tokens, p = steps["w_tokens_before_last"], steps.params
    make = lambda **levels: SFPParams(**levels, res_scale=p.get("res_scale", 5.0))  # noqa: E731
    method, run = calibrated(steps, SFP, make, tokens, steps["w_similarity_cut"], monkeypatch)
    scale = method.params.res_cls * method.params.res_scale
    attention = ClassAttention(steps["class_to_patch"][None] / scale, steps["patch_to_itself"][None])
    monkeypatch.setattr(method, "class_attention", lambda tokens: attention)
    notes = run()
    assert check_notes(steps, notes) == 15
    assert notes["outliers"][0].nonzero()[:, 0].tolist() == [i for i in steps["outliers"].tolist() if i >= 0]


def test_dihclip(monkeypatch):
    steps = Steps("dihclip")
    patches, p = steps["w_tokens_before_last_patches"], steps.params
    make = lambda **levels: DiHCLIPParams(**levels, heads=p.get("topk_SHA", 4), pre_output=False)  # noqa: E731
    similarity = steps["w_pre_similarity"]
    with monkeypatch.context() as without:
        tokens = torch.cat([torch.zeros_like(patches[:1]), patches])
        last = calibrated(steps, DiHCLIP, make, tokens, similarity, without)[1]()["last"]
    added = steps["w_last"] - last[0, ::EVERY]  # the class token, the same for all patches, which the case lacks
    torch.testing.assert_close(added, added[:1].expand_as(added), atol=1e-3, rtol=0)
    tokens = torch.cat([added.mean(0, keepdim=True) / p["res_cls"], patches])
    notes = calibrated(steps, DiHCLIP, make, tokens, similarity, monkeypatch)[1]()
    assert check_notes(steps, notes) == 15


# RF-CLIP and PEARL


@torch.inference_mode()
def test_rfclip():
    steps = Steps("rfclip")
    p = steps.params
    params = RFCLIPParams(
        gamma=p["global_semantics_weight"], alpha=p["mean_vector_weight"], cluster_distance=p["h_threshold"],
        channels=tuple(p["sink_channels"]), sigma=p["sigma"], repair=p["alpha"], beta=p["beta"],
    )  # fmt: skip
    method, text = RFCLIP(Backbones(clip=steps.tower()), params), steps.queries()
    grid = tuple(steps["window_logits"].shape[1:])
    level, before = method.clip.layers // 2, steps["w_level_before"][None]
    assert torch.equal(method.distractors(before[:, 1:])[0], steps["distractors"][level].bool())
    assert steps["distractors"][level].any()
    steps.check("w_level_denoised", torch.cat([before[:, :1], method.repair(before[:, 1:], grid)], 1)[0])
    notes, guide = {}, steps["w_guide"][None]
    kept = method.similar(guide, notes.__setitem__)
    steps.check("w_similarity", notes["similarity"][0])
    steps.check("w_guide_enhanced", torch.cat([guide[:, :1], kept @ guide[:, 1:]], 1)[0])
    mixed = (steps["w_decoded_1"] + steps["w_decoded_2"]) / 2
    features = normalize(method.clip.project(mixed), dim=-1)
    stage = steps.origin["stages"]["w_patch_feature"]
    torch.testing.assert_close(features, steps["w_patch_feature"][::EVERY], atol=stage["atol"], rtol=stage["rtol"])

    queries = method.map_queries(text)
    assert queries.clusters.tolist() == members(steps["clusters"]).tolist()
    features = PresenceFeatures(steps["w_patch_feature"][None], grid, steps["global_vector"])
    presence = method.presence_scores(features, queries)
    steps.check("global_similarity", presence[0])
    winners, adjusted = method.move_queries(features, queries, presence, features.tokens @ text.embeddings.T)
    assert sorted(winners[0].tolist()) == steps["adjusted"].nonzero().flatten().tolist()
    steps.check("w_adjusted_text", text.embeddings.index_put((winners[0],), adjusted[0]))
    steps.check("window_logits", method.score(features, queries)[0])


@torch.inference_mode()
def test_pearl(monkeypatch):
    steps = Steps("pearl")
    p = steps.params
    params = PEARLParams(
        alpha_kk=p["alpha_kk"], grid=p["grid"], tau=p["tau_S"], boost=p["diag_boost"], k_edge=p["k_edge"],
        cg_iters=p["cg_iters"], polar_iters=p["polar_iters"],
    )  # fmt: skip
    method, logits, notes = PEARL(Backbones(clip=steps.tower()), params), steps["window_logits"], {}
    tokens, grid = steps["w_tokens_before_last"][None], tuple(logits.shape[2:])
    monkeypatch.setattr(method.clip, "embed", lambda windows: (tokens, grid))
    monkeypatch.setattr(method.clip, "trunk", lambda tokens: tokens)
    features = method.encode(Batch(None, note=notes.__setitem__))
    for name in ("correlation", "rotation", "last"):
        steps.check(f"w_{name}", notes[name][0])
    steps.check("w_patch_feature", normalize(features.tokens[0], dim=-1))
    queries = steps.queries()
    stage = steps.origin["stages"]["window_logits"]
    ours = method.score(features, queries)[0]
    torch.testing.assert_close(ours, logits[steps.window], atol=stage["atol"], rtol=stage["rtol"])

    boxes, original = [Box(*box) for box in steps["windows"].tolist()], tuple(p["output_size"])
    size = (max(box.y2 for box in boxes), max(box.x2 for box in boxes))
    mean = WindowMean(size)
    for box, window in zip(boxes, logits, strict=True):
        mean.add(torch.nn.functional.interpolate(window[None], box.size, mode="bilinear"), [box])
    gray = steps["grid_gray"]
    cell = [side // cells for side, cells in zip(original, gray.shape, strict=True)]
    image = torch.zeros(original)  # has these means
    filled = gray.repeat_interleave(cell[0], 0).repeat_interleave(cell[1], 1)
    image[: filled.shape[0], : filled.shape[1]] = filled
    solution = method.adjust(
        mean.result(), queries, WindowedImage(image.expand(3, -1, -1), original, boxes, note=notes.__setitem__)
    )
    for name in ("text_matrix", "agree", "data_weight", "edge_h", "edge_v"):
        steps.check(name, notes[name])
    steps.check("grid_logits", notes["grid_logits"][:, ::2, ::2])
    steps.check("solution", solution[:, ::2, ::2])


# Methods that look across windows, and banks


@torch.inference_mode()
def test_glaclip(monkeypatch):
    steps = Steps("glaclip")
    p, keys, rows = steps.params, steps["keys"], steps["rows"]
    params = GLACLIPParams("proxyclip", p["initial_crit_pos"], p["mini_iters"], p["beta_alpha"], p["gamma_alpha"])
    method, notes = GLACLIP(Backbones(), params), {}
    monkeypatch.setattr(method, "project_mixed", lambda mixed, residual: mixed)
    values = torch.randn(*keys.shape[:2], 3, generator=torch.Generator().manual_seed(0))

    def note(name, value):
        notes.setdefault(name, []).append(value)

    image = WindowedImage(torch.zeros(3, 8, 8), (8, 8), [None] * len(keys), note=note)
    joined = method.join(WindowTokens(keys[:, None], values, None, (7, 7)), image)
    for name in ("similarity", "attention"):
        steps.check(name, notes[name][0][rows])
    for name, value in (
        ("count_1", notes["set_size"][0]), ("count_2", notes["set_size"][-1]), ("gamma", notes["gamma"][0]),
        ("proxy_mean", notes["proxy_mean"][0]),
    ):  # fmt: skip
        steps.check(name, value.view(keys.shape[:2]))
    expected = steps["attention"] @ values.flatten(0, 1)
    torch.testing.assert_close(joined.tokens.flatten(0, 1)[rows], expected, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_lposs():
    steps = Steps("lposs")
    p, scores = steps.params, steps["clip_scores"]
    graph = {"neighbours": p["k"], "gamma": p["gamma"], "sigma": p["sigma"]}
    params = LPOSSParams(**graph, alpha=p["alpha"], cg_steps=p["cg_iters"])
    method, notes = LPOSS(Backbones(), params), {}
    method.dino = SimpleNamespace(patch=steps.origin["models"]["dino"]["patch_size"])
    boxes = [Box(*box) for box in steps["windows"].tolist()]
    guide, grid = steps["dino_features"].unflatten(0, (len(boxes), -1)), (4, 4)
    resized = torch.zeros(3, max(box.y2 for box in boxes), max(box.x2 for box in boxes))
    image = WindowedImage(resized, (1, 1), boxes, note=notes.__setitem__)
    joined = method.join(WindowPatches(guide, scores.unflatten(0, (len(boxes), -1)), grid), image)
    steps.check("locations", notes["locations"])
    steps.check("degree", notes["degree"])
    rows, eye = steps["rows"], torch.eye(len(scores))
    steps.check("affinity", notes["graph"].apply(eye)[rows])
    steps.check("normalised", notes["normalised"].apply(eye)[rows])
    queries = Queries(torch.eye(scores.shape[1]), torch.arange(scores.shape[1]))  # features are the official scores
    found = method.score(joined, queries)
    steps.check("patch_scores", found.flatten(2).mT.flatten(0, 1))


@torch.inference_mode()
def test_ovstitcher():
    steps = Steps("ovstitcher")
    p, f, ids = steps.params, steps["dino_feats"], steps["masks_dino"].long()
    method, notes = OVStitcher(Backbones(), OVStitcherParams(tau=1 / p["TAU"], eps=p["EPS"])), {}
    distances = method.region_distances(rank_ids(ids[None]), f[None])[0, 1:, 1:]  # without the lowest id
    steps.check("region_distance", distances)
    merged = method.merge_masks(ids[None], f[None], pad_region(None))
    assert torch.equal(merged[0], steps["masks_merged"].long()) and not torch.equal(merged[0], ids)
    method.attend(f, merged.flatten(), torch.zeros(1, len(f), 1), notes.__setitem__)
    steps.check("similarity_mean", notes["similarity_mean"].view(1))
    assert torch.equal(notes["scope"].sum(1), steps["scope_count"].long())
    steps.check("attn_rows", notes["attn"][::37])


@torch.inference_mode()
def test_the_bank_of_corrclipv2():
    steps = Steps("corrclipv2")
    vectors = Vectors(steps["bank_index_ids"], False, flat=steps["bank_index_vectors"])
    bank = RegionBank(vectors, steps["bank_main"])
    found = bank.nearest(steps["region_queries"], steps.params["num_support"])
    steps.check("neighbour_distances", found.distance)
    assert torch.equal(found.row.sort(1).values, steps["neighbour_ids"].long())
    features = support_features(bank.main, found.row)
    steps.check("support_features_main", features)
    steps.check("support_scores_main", features @ steps["text"].T)


def test_every_file_is_compared():
    named = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    named = {name.split("_")[-1] for name in named}
    assert {path.stem for path in FILES.glob("*.npz")} <= named


@pytest.mark.parametrize("name", ["scclip", "lposs"])
def test_another_value_is_noticed(name):
    steps = Steps(name)
    stage = {"scclip": "w_sum", "lposs": "patch_scores"}[name]
    with pytest.raises(AssertionError, match=stage):
        steps.check(stage, steps[stage] + 0.01)
