"""Conjugate gradients against scipy's, and exact neighbours in blocks."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

from ovbench.methods.sparse_solver import conjugate_gradient, nearest_neighbours


def laplacian_system(rows=7, columns=9, seed=0):
    """A graph of a grid with random edge weights and a small data term, as scipy and as torch sparse matrices."""
    generator = np.random.default_rng(seed)
    n = rows * columns
    number = np.arange(n).reshape(rows, columns)
    pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    i, j = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    weights = scipy.sparse.coo_matrix((generator.random(len(i)), (i, j)), (n, n))
    weights = weights + weights.T
    degree = np.asarray(weights.sum(1)).ravel()
    matrix = (scipy.sparse.diags(degree + 0.01 + generator.random(n) * 0.01) - weights).tocsr()
    of = matrix.tocoo()
    sparse = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([of.row, of.col])),
        torch.from_numpy(of.data),
        (n, n),
        check_invariants=True,
    )
    return matrix, sparse, torch.from_numpy(generator.standard_normal((n, 4)))


@pytest.mark.parametrize("steps", [1, 3, 10, 25])
@pytest.mark.parametrize("warm", [False, True])
def test_every_iterate_is_scipy_s_column_by_column(steps, warm):
    matrix, sparse, b = laplacian_system()
    found = conjugate_gradient(lambda x: sparse @ x, b, steps=steps, axes=(0,), start=b if warm else None)
    for column in range(b.shape[1]):
        right = b[:, column].numpy()
        x, _ = scipy.sparse.linalg.cg(matrix, right, x0=right if warm else None, rtol=0.0, atol=0.0, maxiter=steps)
        np.testing.assert_allclose(found[:, column].numpy(), x, rtol=1e-8, atol=1e-10)


def test_systems_of_one_inner_product_take_the_steps_of_one_large_system():
    matrix, sparse, b = laplacian_system()
    found = conjugate_gradient(lambda x: sparse @ x, b, steps=6, axes=(0, 1))
    whole = scipy.sparse.block_diag([matrix] * 4)
    x, _ = scipy.sparse.linalg.cg(whole, b.T.numpy().ravel(), rtol=0.0, atol=0.0, maxiter=6)
    np.testing.assert_allclose(found.T.numpy().ravel(), x, rtol=1e-8)
    alone = conjugate_gradient(lambda x: sparse @ x, b, steps=6, axes=(0,))
    assert (found - alone).abs().max() > 1e-3


def test_a_column_stops_where_scipy_does_and_the_others_go_on():
    matrix, sparse, b = laplacian_system()
    b[:, 1] = torch.from_numpy(matrix @ np.ones(len(b)))
    b[:, 2] = 0.0
    found = conjugate_gradient(lambda x: sparse @ x, b, steps=40, axes=(0,), tolerance=1e-2)
    for column in (0, 1, 3):
        x, code = scipy.sparse.linalg.cg(matrix, b[:, column].numpy(), rtol=1e-2, atol=0.0, maxiter=40)
        assert code == 0
        np.testing.assert_allclose(found[:, column].numpy(), x, rtol=1e-8, atol=1e-10)
    assert torch.equal(found[:, 2], torch.zeros(len(b), dtype=b.dtype))


def test_many_steps_solve_the_system_and_stay_there():
    matrix, sparse, b = laplacian_system()
    found = conjugate_gradient(lambda x: sparse @ x, b, steps=400, axes=(0,))
    np.testing.assert_allclose(found.numpy(), scipy.sparse.linalg.spsolve(matrix.tocsc(), b.numpy()), rtol=1e-6)
    small = conjugate_gradient(lambda x: sparse.float() @ x, b.float(), steps=400, axes=(0, 1), epsilon=1e-12)
    np.testing.assert_allclose(small.numpy(), found.numpy(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("block", [1, 5, 16, 1000])
def test_neighbours_are_exact_for_any_block(block):
    rows = torch.nn.functional.normalize(torch.randn(37, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = nearest_neighbours(rows, 9, block=block)
    expected = np.argsort(-(rows.double() @ rows.double().T).numpy(), 1)[:, :9]
    assert np.array_equal(found.index.numpy(), expected)
    torch.testing.assert_close(found.similarity, (rows @ rows.T).gather(1, found.index))
    assert torch.equal(found.index[:, 0], torch.arange(37))  # each row itself first


def test_more_neighbours_than_rows_are_all_rows():
    assert nearest_neighbours(torch.eye(4), 400).index.sort().values.tolist() == [[0, 1, 2, 3]] * 4
