"""Spectra of key graphs for CASS: eigendecomposition, low rank, eigenscaling and range mapping."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Principal(NamedTuple):
    """The largest eigenvalues of graphs of N patches.

    Attributes:
        values: float64 (..., R), eigenvalues, descending.
        factors: float (..., N, R), eigenvectors times the roots of their eigenvalues; ``factors @ factors.mT`` is the
            graph at rank R.
        trace: float64 (...), sum of all eigenvalues.
    """

    values: Tensor
    factors: Tensor
    trace: Tensor


def principal(keys: Tensor, ranks: int) -> Principal:
    """Return the largest eigenvalues of the graphs s K K^T, s = E^-1/2, in fp64.

    The E x E matrix s K^T K has the same non-zero eigenvalues, so the smaller of the two is decomposed; its
    eigenvectors V give those of the graph as K V.

    Args:
        keys: K, float (..., N, E).
        ranks: Number of eigenvalues; N if that is smaller.

    Returns:
        Eigenvalues, scaled eigenvectors and trace.
    """
    n, e = keys.shape[-2:]
    wide = keys.double() * e**-0.25  # sqrt(s) K
    small = e < n
    values, vectors = torch.linalg.eigh(wide.mT @ wide if small else wide @ wide.mT)
    trace = values.sum(-1)
    values, vectors = values.flip(-1)[..., :ranks], vectors.flip(-1)[..., :ranks]
    factors = wide @ vectors if small else vectors * values.clamp(min=0).sqrt()[..., None, :]
    missing = min(ranks, n) - values.shape[-1]
    return Principal(F.pad(values, (0, missing)), F.pad(factors, (0, missing)).to(keys), trace)


def recompose(factors: Tensor, s: Tensor, replaced: Tensor) -> Tensor:
    """Return the graphs with replaced eigenvalues.

    Args:
        factors: float (..., N, R), scaled eigenvectors.
        s: float64 (..., R), their eigenvalues, descending; those that are zero up to rounding stay zero.
        replaced: float64 (..., R), new eigenvalues.

    Returns:
        float (..., N, N).
    """
    ratio = torch.where(s > 1e-12 * s[..., :1], replaced / s, 0.0)
    return (factors * ratio[..., None, :].to(factors)) @ factors.mT


def stretch(s: Tensor, kept: Tensor) -> Tensor:
    """Scale eigenvalues linearly from [min, max] to [0.5 min, 1.5 max] (dynamic eigenscaling).

    Args:
        s: float64 (..., R), descending.
        kept: bool (..., R), the values that define the minimum.

    Returns:
        float64 (..., R).
    """
    low, high = torch.where(kept, s, torch.inf).amin(-1, keepdim=True), s.amax(-1, keepdim=True)
    return 0.5 * low + (s - low) / _at_least_tiny(high - low) * (1.5 * high - 0.5 * low)


def match_range(x: Tensor, model: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Map a tensor linearly to the minimum and maximum of another one.

    Args:
        x: float, any shape.
        model: float, of the same number of axes, whose range is taken.
        axes: The axes that minimum and maximum are taken over.

    Returns:
        float, shape of ``x``; a constant ``x`` becomes the minimum of ``model``.
    """
    low, new_low = x.amin(axes, keepdim=True), model.amin(axes, keepdim=True)
    span, new_span = x.amax(axes, keepdim=True) - low, model.amax(axes, keepdim=True) - new_low
    return (x - low) / _at_least_tiny(span) * new_span + new_low


def _at_least_tiny(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(x.dtype).tiny)
