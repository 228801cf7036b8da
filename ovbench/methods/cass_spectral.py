"""Graphs of patches by their spectra: inner products of keys, decomposed, cut to few ranks, and brought to range."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Principal(NamedTuple):
    """A graph of cells by its largest eigenvalues f64[..., r], descending, as many eigenvectors scaled by their roots,
    f[..., n, r], so that ``factors @ factors.mT`` is the graph cut to that rank, and the sum of all eigenvalues."""

    values: Tensor
    factors: Tensor
    trace: Tensor


def principal(keys: Tensor, ranks: int) -> Principal:
    """The largest ``ranks`` eigenvalues of the graphs s K K^T of keys f[..., n, e], s = e^-1/2, in fp64; fewer where
    there are fewer cells.

    The e x e matrix s K^T K has the same eigenvalues, but for zeros, so the smaller of the two is decomposed. Its
    eigenvectors V give the graph's as K V.
    """
    n, e = keys.shape[-2:]
    wide = keys.double() * e**-0.25
    small = e < n
    values, vectors = torch.linalg.eigh(wide.mT @ wide if small else wide @ wide.mT)
    trace = values.sum(-1)
    values, vectors = values.flip(-1)[..., :ranks], vectors.flip(-1)[..., :ranks]
    factors = wide @ vectors if small else vectors * values.clamp(min=0).sqrt()[..., None, :]
    missing = min(ranks, n) - values.shape[-1]
    return Principal(F.pad(values, (0, missing)), F.pad(factors, (0, missing)).to(keys), trace)


def recompose(factors: Tensor, s: Tensor, replaced: Tensor) -> Tensor:
    """The graphs f[..., n, n] of scaled eigenvectors f[..., n, r] with their eigenvalues s f64[..., r] replaced by
    others; what is zero but for rounding stays zero."""
    ratio = torch.where(s > 1e-12 * s[..., :1], replaced / s, 0.0)
    return (factors * ratio[..., None, :].to(factors)) @ factors.mT


def stretch(s: Tensor, kept: Tensor) -> Tensor:
    """Of the kept values of s f64[..., r] the smallest becomes half of itself and the largest one and a half times,
    the others in between by their place."""
    low, high = torch.where(kept, s, torch.inf).amin(-1, keepdim=True), s.amax(-1, keepdim=True)
    return 0.5 * low + (s - low) / _at_least_tiny(high - low) * (1.5 * high - 0.5 * low)


def match_range(x: Tensor, model: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x moved and scaled to the minimum and the maximum that ``model`` has over the axes; a constant x becomes that
    minimum."""
    low, new_low = x.amin(axes, keepdim=True), model.amin(axes, keepdim=True)
    span, new_span = x.amax(axes, keepdim=True) - low, model.amax(axes, keepdim=True) - new_low
    return (x - low) / _at_least_tiny(span) * new_span + new_low


def _at_least_tiny(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(x.dtype).tiny)
