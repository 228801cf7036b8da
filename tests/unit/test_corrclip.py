"""CorrCLIP against a literal, slow version of itself, in the situations in which a short cut would show."""

from __future__ import annotations

import naive_corrclip as naive
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from towers import small_towers

from ovbench.config.load import Protocol
from ovbench.inference.predictor import Predictor
from ovbench.inference.sliding_window import pad_to_multiple
from ovbench.methods.base import Batch, Queries
from ovbench.methods.clearclip import ClearCLIP
from ovbench.methods.corrclip import CorrCLIP
from ovbench.methods.tower_params import SIMILARITIES, CorrCLIPParams
from ovbench.regions.ids import majority_labels
from ovbench.utils.errors import UsageError


def blocks(h: int, w: int, ids: list[list[int]]) -> torch.Tensor:
    """A region map i64[h, w] of rectangles with the given ids."""
    grid = torch.tensor(ids)
    rows = (torch.arange(h) * grid.shape[0]) // h
    columns = (torch.arange(w) * grid.shape[1]) // w
    return grid[rows][:, columns]


def picture(h: int, w: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, h // 8 + 2, w // 8 + 2, generator=generator, dtype=torch.float64)
    return F.interpolate(coarse, (h, w), mode="bilinear")[0] * 1.2


# name -> height, width, region map
WINDOWS = {
    "unsegmented pixels": (112, 112, blocks(112, 112, [[0, 0, 3], [1, 0, 3], [1, 2, 2], [5, 5, 0]])),
    "lowest id is not 0": (112, 112, blocks(112, 112, [[4, 9, 9], [4, 7, 8]])),
    "fully segmented": (112, 56, blocks(112, 56, [[1, 2], [3, 4], [5, 6], [7, 8]])),
    "minus one is lowest": (56, 112, blocks(56, 112, [[-1, 0, 1, 2], [-1, -1, 3, 3]])),
    "one region": (56, 56, torch.full((56, 56), 3)),
    "two regions": (56, 112, blocks(56, 112, [[0, 7]])),
    "slivers that no cell of the grid sees": (56, 56, blocks(56, 56, [list(range(28))] * 28)),
    "padding is the highest id": (112, 168, F.pad(blocks(100, 150, [[0, 2, 3], [1, 1, 2]]), (9, 9, 6, 6), value=10000)),
    "padding beside a single region": (112, 112, F.pad(torch.full((80, 90), 5), (11, 11, 16, 16), value=10000)),
}


def run(method: CorrCLIP, images: torch.Tensor, regions: torch.Tensor):
    notes = {}
    with torch.no_grad():
        features = method.encode(Batch(images, regions, pad_region=10000, note=notes.__setitem__))
    return features, notes


@pytest.mark.quick(3)
@pytest.mark.parametrize("patch", [16, 14])
@pytest.mark.parametrize("name", WINDOWS)
def test_window_features_equal_the_literal_version(name, patch):
    h, w, regions = WINDOWS[name]
    towers = small_towers(clip_patch=patch)
    image = picture(h, w)
    features, notes = run(CorrCLIP(towers), image[None], regions[None])
    with torch.no_grad():
        f, gh, gw = naive.dino_features(towers.dino, image)
        expected, *_ = naive.window_features(towers, image, regions, CorrCLIPParams())
    assert features.grid == (gh, gw)
    assert torch.equal(notes["masks_merged"][0], naive.merge(naive.nearest(regions, gh, gw), f, 0.2))
    allowed = naive.scope(notes["masks_merged"][0], f @ f.T)
    assert torch.equal(notes["scope"][0], allowed | torch.eye(gh * gw, dtype=torch.bool))
    torch.testing.assert_close(features.tokens[0], expected, rtol=1e-8, atol=1e-8)


def test_windows_in_a_batch_do_not_see_each_other():
    """Maps with different numbers of regions, and ids that mean different things, in one batch."""
    towers = small_towers()
    chosen = [m for h, w, m in WINDOWS.values() if (h, w) == (56, 112)] + [blocks(56, 112, [[8, 9, 30000]])]
    images = torch.stack([picture(56, 112, seed) for seed in range(len(chosen))])
    together, _ = run(CorrCLIP(towers), images, torch.stack(chosen))
    for number, regions in enumerate(chosen):
        alone, _ = run(CorrCLIP(towers), images[number : number + 1], regions[None])
        torch.testing.assert_close(together.tokens[number], alone.tokens[0], rtol=1e-10, atol=1e-10)


@pytest.mark.quick(2)
@pytest.mark.parametrize("eps", [1e-6, 0.02, 0.1, 0.5, 2.0])
def test_merging_follows_dbscan_over_its_radius(eps):
    towers = small_towers(seed=3)
    regions = blocks(112, 112, np.random.default_rng(0).integers(0, 30, (7, 7)).tolist())
    params = CorrCLIPParams(eps=eps)
    _, notes = run(CorrCLIP(towers, params), picture(112, 112, 5)[None], regions[None])
    with torch.no_grad():
        f, gh, gw = naive.dino_features(towers.dino, picture(112, 112, 5))
    expected = naive.merge(naive.nearest(regions, gh, gw), f, eps)
    assert torch.equal(notes["masks_merged"][0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.1, 0.2, 0.3, 0.5])
def test_the_components_of_the_literal_version_are_dbscans(eps):
    from sklearn.cluster import DBSCAN

    points = np.random.default_rng(0).random((40, 2))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    found = naive.components(torch.from_numpy(distances <= eps))
    expected = DBSCAN(eps=eps, min_samples=1, metric="precomputed").fit(distances).labels_
    assert found == expected.tolist() and (eps > 0.2 or len(set(found)) > 2)


class DoubleLabeller(Predictor):
    """In fp64, so that no label hangs on rounding."""

    def _normalise(self, image: np.ndarray) -> torch.Tensor:
        return super()._normalise(image).double()


MAPS = {
    "zero is unsegmented": blocks(70, 104, [[0, 1, 1, 2], [3, 3, 0, 2], [4, 0, 5, 6]]),
    "fully segmented": blocks(70, 104, [[11, 12, 13], [14, 15, 16]]),
    "minus one": blocks(70, 104, [[-1, 0, 0, 2], [3, -1, -1, 2]]),
    "one region": torch.full((70, 104), 9),
    "windows with other lowest ids than the image": blocks(70, 104, [[0, 5, 8, 9], [3, 6, 7, 10]]),
    "large ids": blocks(70, 104, [[0, 70000, 20], [123456, 9999, 20]]),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", MAPS)
def test_labels_of_an_image_equal_the_literal_version(name):
    """Non-square, several windows of which none fits a patch, padded to 56, synonyms, threshold, map correction."""
    towers = small_towers(seed=1)
    protocol = Protocol(short_side=0, crop=50, stride=30, pad=56, prob_thd=0.4)
    image = ((picture(70, 104, 7) * 60 + 120).clamp(0, 255)).permute(1, 2, 0).numpy().astype(np.uint8)
    # some patches' own features as words, so that labels differ from patch to patch
    tokens = run(CorrCLIP(towers), picture(56, 56, 7)[None], MAPS["fully segmented"][None, :56, :56])[0].tokens[0]
    text = F.normalize(tokens[::7], dim=-1)[:7]
    queries = Queries(text, torch.tensor([0, 0, 0, 1, 2, 3, 4]), 0)
    predictor = DoubleLabeller(CorrCLIP(towers), protocol, [queries])
    ours = predictor.label(image, MAPS[name].numpy().astype(np.int32))[0]
    with torch.no_grad():
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (protocol.mean, protocol.std))
        normalised = ((torch.from_numpy(image).permute(2, 0, 1).float() - mean) / std).double()
        expected = naive.label(towers, normalised, MAPS[name], text, 50, 30, 0.4, 3, CorrCLIPParams())
    assert (ours == expected.numpy()).mean() > 0.999
    assert len(np.unique(ours)) > 1


def test_padding_rule_of_the_literal_version_is_the_engines():
    for h, w in ((100, 100), (56, 112), (50, 113)):
        pad = pad_to_multiple((h, w), 56)
        assert (pad.top, pad.left) == ((-h % 56) // 2, (-w % 56) // 2)


def test_a_window_of_constant_features_yields_numbers():
    """The mean is then no smaller than any similarity; every cell still reaches itself."""
    towers = small_towers()
    even, ids = torch.zeros(1, 3, 56, 56, dtype=torch.float64), torch.zeros(1, 56, 56, dtype=torch.int64)
    features, notes = run(CorrCLIP(towers), even, ids)
    assert torch.isfinite(features.tokens).all() and notes["scope"].diagonal(dim1=1, dim2=2).all()


# --- switches ---------------------------------------------------------------------------------------------------------

OFF = dict.fromkeys(("scope", "value", "mask_merging", "spatial_branch", "mask_class_tokens", "map_correction"), False)


def case():
    h, w, regions = WINDOWS["unsegmented pixels"]
    return small_towers(), picture(h, w)[None], regions[None]


def test_with_everything_off_clearclip_remains():
    towers, images, regions = case()
    plain = CorrCLIP(towers, CorrCLIPParams(**OFF))
    features, _ = run(plain, images, regions)
    with torch.no_grad():
        expected = ClearCLIP(towers).encode(Batch(images))
    torch.testing.assert_close(features.tokens, expected.tokens, rtol=1e-9, atol=1e-9)
    labels = torch.arange(112 * 112).view(112, 112) % 5
    assert torch.equal(plain.refine_labels(labels, regions[0]), labels)


def test_every_switch_changes_the_features_and_nothing_else_breaks():
    towers, images, regions = case()
    base = {"eps": 0.9}  # a radius at which some of these random regions merge
    seen = [run(CorrCLIP(towers, CorrCLIPParams(**base)), images, regions)[0].tokens]
    variants = [{name: False} for name in OFF if name != "map_correction"]
    variants += [{"tau": 0.1}, {"alpha": 0.5}, {"beta": 1.0}, {"spatial_depth": 2}]
    for variant in variants:
        tokens = run(CorrCLIP(towers, CorrCLIPParams(**(base | variant))), images, regions)[0].tokens
        assert torch.isfinite(tokens).all()
        if tokens.shape == seen[0].shape:
            assert all(not torch.allclose(tokens, other) for other in seen), variant
            seen.append(tokens)


@pytest.mark.quick(3)
@pytest.mark.parametrize("tower", ["dino", "clip"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_similarities(similarity, tower):
    """S is the cosine of what the name says, over the full width, on the grid of its tower."""
    towers, images, regions = case()
    method = CorrCLIP(towers, CorrCLIPParams(similarity=similarity, similarity_from=tower))
    features, notes = run(method, images, regions)
    assert features.grid == ((14, 14) if tower == "dino" else (7, 7))
    with torch.no_grad():
        if tower == "dino":
            pixels = naive_dino_input(images)
            q, k, _, _ = towers.dino.last_qkv(pixels)
            x = towers.dino.vit.norm(run_blocks(towers.dino, pixels))[:, 1:]
        else:
            visual = towers.clip.visual
            tokens = towers.clip.trunk(towers.clip.embed(images)[0])
            last = visual.transformer.resblocks[-1]
            qkv = F.linear(last.ln_1(tokens), last.attn.in_proj_weight, last.attn.in_proj_bias)[:, 1:]
            q, k = qkv[..., :32], qkv[..., 32:64]
            x = visual.ln_post(last(tokens))[:, 1:]
    sides = {"q-k": (q, k), "q-q": (q, q), "k-k": (k, k), "x-x": (x, x)}
    left, right = (F.normalize(side, dim=-1) for side in sides.get(similarity, (q + k, q + k)))
    torch.testing.assert_close(notes["similarity"], left @ right.mT, rtol=1e-9, atol=1e-9)
    weights = notes["attn"]
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    if similarity == "uniform":
        torch.testing.assert_close(weights, notes["scope"].double() / notes["scope"].sum(-1, keepdim=True))


def naive_dino_input(images):
    columns = [
        torch.tensor(c, dtype=images.dtype).view(3, 1, 1)
        for c in (naive.CLIP_STD, naive.CLIP_MEAN, naive.DINO_MEAN, naive.DINO_STD)
    ]
    return (images * columns[0] + columns[1] - columns[2]) / columns[3]


def run_blocks(dino, pixels):
    tokens, _ = dino.embed(pixels)
    for block in dino.vit.blocks:
        tokens = block(tokens)
    return tokens


def test_unknown_similarity_is_refused():
    with pytest.raises(UsageError, match="did you mean"):
        CorrCLIPParams(similarity="qk-kq")
    with pytest.raises(UsageError, match="dino"):
        CorrCLIPParams(similarity_from="dinov2")


@pytest.mark.quick(3)
@pytest.mark.parametrize("seed", range(8))
def test_map_correction_equals_a_loop_over_regions(seed):
    """Ties go to the smallest label; the lowest id is left alone; ids may be negative or far apart."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-3, (4, 30, 200, 100_000)[seed % 4], (40, 60), generator=generator)
    labels = torch.randint(0, (2, 150)[seed % 2], (40, 60), generator=generator)
    assert torch.equal(majority_labels(labels, ids), naive.corrected(labels, ids))
