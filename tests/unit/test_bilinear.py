"""The stated enlargement: PyTorch's to a tolerance, and the same bits in a tile as in the whole."""

import pytest
import torch
import torch.nn.functional as F

from ovbench.methods.bilinear import axis, enlarge, enlarged_tiles

SIZES = [((20, 31), size) for size in [(1, 1), (1, 300), (300, 1), (7, 11), (90, 333), (20, 31), (20, 62), (40, 31)]]
SIZES += [((1, 1), (5, 7)), ((336, 448), (375, 500)), ((3, 2), (64, 65))]


def maps(source):
    return torch.randn(5, *source, generator=torch.Generator().manual_seed(0))


@pytest.mark.quick(5)
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(("source", "size"), SIZES)
def test_it_is_pytorchs_to_a_tolerance(source, size, corners):
    expected = F.interpolate(maps(source)[None].double(), size, mode="bilinear", align_corners=corners)[0]
    found = enlarge(maps(source), size, align_corners=corners)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.quick(8)
@pytest.mark.parametrize("elements", [1, 1000, 20_000, 1 << 30])
@pytest.mark.parametrize(("source", "size"), SIZES)
def test_tiles_are_the_whole_to_the_last_bit_and_cover_it_once(source, size, elements):
    whole, seen = torch.full((5, *size), torch.nan), torch.zeros(size)
    for tile in enlarged_tiles(maps(source), size, elements):
        whole[:, tile.rows, tile.columns] = tile.values
        seen[tile.rows, tile.columns] += 1
    assert (seen == 1).all()
    assert torch.equal(whole, enlarge(maps(source), size))


def test_the_order_of_operations_is_the_stated_one():
    """One value written out in single roundings."""
    source, size, (y, x) = maps((20, 31)), (90, 333), (37, 101)
    (v, h), one = (axis(20, 90), axis(31, 333)), torch.ones(())
    rows = [
        source[:, row, h.before[x]] * (one - h.fraction[x]) + source[:, row, h.after[x]] * h.fraction[x]
        for row in (v.before[y], v.after[y])
    ]
    expected = rows[0] * (one - v.fraction[y]) + rows[1] * v.fraction[y]
    assert torch.equal(enlarge(source, size)[:, y, x], expected)


def test_places_are_computed_in_whole_numbers():
    found = axis(3, 6)
    assert found.before.tolist() == [0, 0, 0, 1, 1, 2] and found.after.tolist() == [1, 1, 1, 2, 2, 2]
    assert found.fraction.tolist() == [0, 0.25, 0.75, 0.25, 0.75, 0.25]
    corners = axis(3, 5, align_corners=True)
    assert corners.before.tolist() == [0, 0, 1, 1, 2] and corners.fraction.tolist() == [0, 0.5, 0, 0.5, 0]


def test_equal_queries_stay_equal_and_half_precision_is_widened():
    twins = maps((9, 13))[:1].repeat(2, 1, 1)
    found = enlarge(twins, (31, 47))
    assert torch.equal(found[0], found[1])
    assert enlarge(twins.half(), (31, 47)).dtype == torch.float32
