"""OV-Stitcher: the grid against loops, the steps against plain readings of the method, and images of any size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from towers import small_towers

from ovbench.config.load import Protocol
from ovbench.inference.batching import WindowBatcher
from ovbench.inference.predictor import Predictor
from ovbench.inference.sliding_window import pad_to_multiple, window_grid
from ovbench.methods import ovstitcher
from ovbench.methods.base import Backbones, Queries, WindowedImage, no_note
from ovbench.methods.ovstitcher import OVStitcher, Stitch, TowerTokens
from ovbench.methods.tower_params import OVStitcherParams
from ovbench.parity.recorder import Recorder
from ovbench.utils.errors import InputError

NOISE = np.random.default_rng(0)
IMAGE = NOISE.integers(0, 255, (130, 170, 3), np.uint8)
REGIONS = NOISE.integers(0, 6, (5, 7)).repeat(26, 0).repeat(25, 1)[:130, :170].astype(np.int32)
EMBEDDINGS = torch.randn(4, 12, generator=torch.Generator().manual_seed(5))
QUERIES = Queries(F.normalize(EMBEDDINGS, dim=-1), torch.arange(4))
PROTOCOL = Protocol(short_side=0, crop=112, stride=56, pad=56)


@pytest.fixture(scope="module")
def towers():
    return small_towers()


@pytest.fixture(scope="module")
def single():
    return Backbones(**{name: tower.float() for name, tower in small_towers().items()})


def windowed(size, crop=112, stride=56, pad=56):
    boxes = window_grid(size, crop, stride)
    return WindowedImage(torch.zeros(3, *size), size, boxes, pad_to_multiple(boxes[0].size, pad))


def stitched_by_loops(cells, image, patch, window_grid):
    """Return the mean over windows, cell by cell of the image."""
    height, width = (max(side // patch, 1) for side in image.size)
    found = np.full((height, width), np.nan)
    for row in range(height):
        for column in range(width):
            seen = []
            for window, box in zip(cells, image.boxes, strict=True):
                at = []
                for place, corner, side, pad, count in (
                    (row, box.y1, box.size[0], image.pad.top, window_grid[0]),
                    (column, box.x1, box.size[1], image.pad.left, window_grid[1]),
                ):
                    own = max(side // patch, 1)
                    skipped = min(-(-pad // patch), count - own)
                    inside = place - corner // patch
                    at.append(skipped + inside if 0 <= inside < own else None)
                if None not in at:
                    seen.append(window[at[0], at[1]])
            found[row, column] = np.mean(seen)
    return found


@pytest.mark.quick(5)
@pytest.mark.parametrize("size", [(112, 112), (151, 205), (113, 600), (300, 90), (7, 200), (96, 111)])
@pytest.mark.parametrize("patch", [8, 14, 16])
def test_cells_are_averaged_at_their_rounded_corner(size, patch):
    image = windowed(size)
    pad = image.pad
    grid = tuple(
        (side + sum(added)) // patch
        for side, added in zip(image.boxes[0].size, ((pad.top, pad.bottom), (pad.left, pad.right)), strict=True)
    )
    cells = torch.rand(len(image.boxes), *grid, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = Stitch(image, patch)(cells.flatten(1)[..., None], grid)
    assert found.shape == (max(size[0] // patch, 1) * max(size[1] // patch, 1), 1)
    np.testing.assert_allclose(found[:, 0], stitched_by_loops(cells.numpy(), image, patch, grid).ravel(), atol=1e-12)


def test_a_side_that_the_official_code_accepts_skips_all_padded_cells():
    """At crop 336 a side of 287 is padded by 24 and 25 pixels: three cells of eight pixels are skipped."""
    image = windowed((287, 336), 336, 112)
    cells = torch.arange(42.0)[:, None].expand(-1, 42).flatten()[None, :, None]
    rows = Stitch(image, 8)(cells, (42, 42)).view(35, 42)[:, 0]
    assert rows.tolist() == [float(row) for row in range(3, 38)]


def test_windows_that_leave_a_cell_out_are_refused():
    with pytest.raises(InputError, match="111x111 pixels leave cells of 16 pixels out; set crop to a multiple"):
        Stitch(windowed((111, 400), 111, 111, 0), 16)


def tokens_and_image(towers, size=(130, 170)):
    generator, image = torch.Generator().manual_seed(2), windowed(size)
    count = len(image.boxes)
    dino = torch.randn(count, 196, 24, generator=generator, dtype=torch.float64)
    clip = torch.randn(count, 5, 50, 32, generator=generator, dtype=torch.float64)
    return TowerTokens(dino, (14, 14), clip, (7, 7)), image


def test_averages_of_normed_tokens_are_those_of_queries_keys_and_values(towers):
    """Each step with queries, keys and values of every window, averaged after the projection as the method says."""
    method = OVStitcher(towers, OVStitcherParams())
    tokens, image = tokens_and_image(towers)
    cells, patches = Stitch(image, 8), Stitch(image, 16)

    vit = towers.dino.vit
    last = vit.blocks[-1]
    q, k, v = (cells(one, (14, 14)) for one in last.attn.qkv(last.norm1(tokens.dino)).chunk(3, -1))
    mixed = [(a @ b.T / 12**0.5).softmax(1) @ c for a, b, c in zip(*(x.split(12, 1) for x in (q, k, v)), strict=True)]
    y = cells(vit.norm(tokens.dino), (14, 14)) + last.attn.proj(torch.cat(mixed, 1))
    y = y + last.mlp(last.norm2(y))
    torch.testing.assert_close(method.last_dino_block(tokens, cells, no_note), y)

    outputs = []
    block, x = towers.clip.blocks[2], tokens.clip[:, 2, 1:]  # 5 blocks: the spatial branch has block 2 alone
    projected = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
    q, k, v = (patches(one, (7, 7)) for one in projected)
    x = patches(x, (7, 7))
    x = x + block.attn.out_proj((q @ k.T / 16**0.5).softmax(1) @ v)  # two heads of width 16, not split
    outputs.append(x + block.mlp(block.ln_2(x)))
    torch.testing.assert_close(method.spatial_tokens(tokens, patches, no_note), outputs[0])


def test_attention_is_that_of_the_whole_matrix_in_blocks_of_any_size(towers, monkeypatch):
    method = OVStitcher(towers, OVStitcherParams())
    f = F.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5, dim=-1)
    ids = torch.tensor([-1, 3, 3, 7] * 10)
    values = torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    s = f @ f.T
    allowed = torch.tensor([[s[i, j] > s.mean() if -1 in (ids[i], ids[j]) else ids[i] == ids[j]
                             for j in range(40)] for i in range(40)])  # fmt: skip
    expected = (4 * s).masked_fill(~allowed, -torch.inf).softmax(1) @ values
    for block in (1 << 25, 170, 1):
        monkeypatch.setattr(ovstitcher, "BLOCK", block)
        torch.testing.assert_close(method.attend(f, ids, values, no_note), expected)
    equal = F.normalize(torch.ones(40, 6, dtype=torch.float64), dim=-1)  # no pair exceeds the mean
    assert method.attend(equal, torch.zeros(40, dtype=torch.int64), values, no_note).isfinite().all()


def test_a_class_token_sees_the_class_token_and_its_patches(towers):
    """All tokens in one sequence with a matrix of who sees whom; the second region is not in the second window."""
    method, clip = OVStitcher(towers, OVStitcherParams()), towers.clip
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    own = torch.rand(2, 2, 16, generator=torch.Generator().manual_seed(7)) < 0.5
    own[1, 1] = False
    embedded, _ = clip.embed(images)
    found = method.class_tokens(torch.stack(clip.states(embedded, range(5)), 1), own)
    for window in range(2):
        x = torch.cat([embedded[window, :1].expand(2, -1), embedded[window]])
        sees = torch.zeros(19, 19, dtype=torch.bool)
        sees[:, 2:] = True
        sees[:2, 3:] = own[window]
        for block in clip.blocks:
            q, k, v = clip.project_heads(block, block.ln_1(x)[None])
            weights = (q @ k.mT / 16**0.5).masked_fill(~sees, -torch.inf).softmax(-1)
            x = clip.feed_forward(block, x + clip.merge_heads(block, weights @ v)[0])
        torch.testing.assert_close(found[window], x[:2])


def predictor(single, protocol=PROTOCOL, queries=QUERIES, **params):
    return Predictor(OVStitcher(single, OVStitcherParams(**params)), protocol, [queries])


@pytest.fixture(scope="module")
def queries(single):
    """Queries near cells of the image, so that it has several labels."""
    notes = Recorder()
    predictor(single).label_resized(IMAGE, IMAGE.shape[:2], REGIONS, note=notes)
    tokens = F.normalize(notes.once("joined").tokens[0], dim=-1)
    return Queries(F.normalize(tokens[::80] - tokens.mean(0), dim=-1), torch.arange(len(tokens[::80])))


@pytest.mark.quick(1)
@pytest.mark.parametrize("size", [(112, 112), (130, 170), (90, 300), (17, 230), (60, 60)])
def test_labels_do_not_depend_on_blocks_batches_or_other_images(single, queries, monkeypatch, size):
    ours = predictor(single, queries=queries)
    image, regions = np.resize(IMAGE, (*size, 3)), np.resize(REGIONS, size)
    expected = ours.label(image, regions)[0]
    assert expected.shape == size and (len(np.unique(expected)) > 1 or size == (60, 60))
    together = WindowBatcher(ours, 8)
    given = [(IMAGE, REGIONS), (image, regions), (IMAGE[:112, :112], REGIONS[:112, :112])]
    found = [one for number, pair in enumerate(given) for one in together.add(number, *pair)] + [*together.flush()]
    (labels,) = (one.labels[0] for one in found if one.number == 1)
    assert np.mean(labels == expected) > 0.999
    monkeypatch.setattr(ovstitcher, "BLOCK", 500)
    assert np.mean(ours.label(image, regions)[0] == expected) > 0.999


@pytest.mark.quick(2)
@pytest.mark.parametrize("params", [{"spatial_branch": False}, {"mask_class_tokens": False}, {"scope": False},
                                    {"mask_merging": False}, {"map_correction": False}])  # fmt: skip
def test_every_switch_changes_the_result(single, queries, params):
    changed, complete = (predictor(single, queries=queries, **own).label(IMAGE, REGIONS)[0] for own in (params, {}))
    assert not np.array_equal(changed, complete)


def test_an_image_in_one_window_and_one_without_regions(single):
    whole = predictor(single, Protocol(short_side=0, crop=0, stride=56))
    notes = Recorder()
    whole.label_resized(IMAGE, IMAGE.shape[:2], np.zeros((130, 170), np.int32), note=notes)
    assert notes.once("joined").grid == (16, 21) and notes.once("joined").tokens.isfinite().all()
    assert notes.once("region_list").tolist() == [0] and notes.once("labels").shape == (130, 170)


def test_padding_is_region_0_in_windows(single):
    """Padded pixels count as not segmented where 0 is in the list, and belong to no region otherwise."""
    for offset in (0, 5):
        notes = Recorder()
        predictor(single).label_resized(IMAGE[:90], (90, 170), REGIONS[:90] + offset, note=notes)
        ids = notes.once("masks_token")
        assert (ids[:, 0] == 0).all() and (ids[:, 1:6] != 0).any()
        assert (0 in notes.once("region_list")) == (offset == 0) and notes.once("joined").tokens.isfinite().all()
