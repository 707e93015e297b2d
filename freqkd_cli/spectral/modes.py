"""Spectra of symmetric graphs: eigenvalues, low rank, scaling, and measures of them.

All functions work on batches, heads apart. Only eigenvalues may carry a gradient, which stays
finite where eigenvalues are equal; eigenvectors never do. Spectra have a fixed number of entries k.
Those that a graph with void nodes, or of lower rank, does not have are 0, and False in ``kept``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd_cli.runtime.constants import constant
from freqkd_cli.runtime.precision import widest
from freqkd_cli.spectral.eigen import (
    End,
    every_mode,
    exact,
    exact_device,
    from_end,
    outermost,
    smaller_gram,
)
from freqkd_cli.spectral.fourier import widened
from freqkd_cli.spectral.graph import unrounded

Rank = Literal["energy", "cass_fixed_10"]
Scaling = Literal["none", "cass", "power"]

ZERO_MODE = 1e-9
"""Eigenvalues of a Gram matrix under this share of the largest are rounding."""


@dataclass(frozen=True)
class Modes:
    """Eigenpairs of a graph, without gradient.

    Attributes:
        values: ``[B, heads, k]``, by value from one end; 0 where there is no such mode.
        vectors: ``[B, heads, N, k]``, orthonormal columns; 0 on void nodes and where there is no
            such mode.
        kept: ``[B, heads, k]`` bool, False where there is no such mode.
    """

    values: Tensor
    vectors: Tensor
    kept: Tensor

    def part(self, start: int, stop: int | None = None) -> Modes:
        """Return the modes from ``start`` up to ``stop``; ``part(1)`` drops the Perron mode."""
        return Modes(
            self.values[..., start:stop], self.vectors[..., start:stop], self.kept[..., start:stop]
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Modes:
        """Return the modes on a device, their numbers in a float type."""
        numbers = (x.to(device, dtype) for x in (self.values, self.vectors))
        return Modes(*numbers, self.kept.to(device))

    def padded(self, k: int) -> Modes:
        """Return exactly k modes, with empty ones at the end where there are fewer."""
        cut, more = self.part(0, k), max(k - self.values.shape[-1], 0)
        return Modes(
            F.pad(cut.values, (0, more)), F.pad(cut.vectors, (0, more)), F.pad(cut.kept, (0, more))
        )


def kept(valid: Tensor, k: int) -> Tensor:
    """Return which of k eigenvalues a graph of these valid nodes has, ``[B, 1, k]`` bool."""
    return (torch.arange(k, device=valid.device) < valid.sum(1, keepdim=True))[:, None]


@unrounded
def eigenvalues(graph: Tensor, valid: Tensor, k: int, *, end: End = "largest") -> Tensor:
    """Return the k largest eigenvalues, descending, or the k smallest, ascending.

    ``[B, heads, k]``, differentiable. ``graph`` is symmetric, and 0 on void nodes.
    """
    values = outermost(_parted(graph, valid, end), k, end)
    return F.pad(values, (0, k - values.shape[-1])) * kept(valid, k)


@unrounded
def gram_eigenvalues(rows: Tensor, k: int) -> Tensor:
    """Return the k largest eigenvalues of R R^T, descending, ``[B, heads, k]``, differentiable.

    Where d < N they are computed from R^T R, d x d: the non-zero eigenvalues are the same.
    """
    values = outermost(smaller_gram(rows), k)
    return F.pad(values.clamp(min=0.0), (0, k - values.shape[-1]))


@torch.no_grad()
@unrounded
def eigenpairs(
    graph: Tensor, valid: Tensor, k: int | None = None, *, end: End = "largest"
) -> Modes:
    """Return the k modes from one end of the spectrum, or all N of them.

    They are computed in float64 and returned in the graph's type.
    """
    k = graph.shape[-1] if k is None else k
    dtype, device = graph.dtype, graph.device
    graph, valid = exact(graph), valid.to(exact_device(device))
    values, vectors = every_mode(_parted(graph, valid, end))
    have = kept(valid, min(k, values.shape[-1])).expand(values.shape[:2] + (-1,))
    values = from_end(values, k, end) * have
    vectors = from_end(vectors, k, end) * valid[:, None, :, None] * have[..., None, :]
    return Modes(values, vectors, have).to(device, dtype).padded(k)


@torch.no_grad()
@unrounded
def gram_eigenpairs(rows: Tensor, k: int | None = None) -> Modes:
    """Return the k largest modes of R R^T, or all that are not 0, at most min(N, d).

    They are computed in float64 and returned in the type of the rows.
    """
    wide = exact(rows)
    values, vectors = every_mode(smaller_gram(wide))
    values, vectors = (from_end(x, values.shape[-1], "largest") for x in (values, vectors))
    have = values > ZERO_MODE * values[..., :1].clamp(min=ZERO_MODE)
    if rows.shape[-1] < rows.shape[-2]:
        vectors = wide @ (vectors * torch.where(have, values, 1.0).rsqrt()[..., None, :])
    else:
        vectors = vectors * wide.any(-1, keepdim=True)
    modes = Modes(values * have, vectors * have[..., None, :], have).to(rows.device, rows.dtype)
    return modes if k is None else modes.padded(k)


def low_rank(modes: Modes, k: int = 20, *, rank: Rank = "energy", energy: float = 0.95) -> Modes:
    """Return the strongest modes by magnitude, as k columns.

    ``energy``: min(k, r), where r is the least number of modes that hold this share of the sum of
    magnitudes of the *whole* spectrum, so ``modes`` must be all of them. ``cass_fixed_10``: always
    10 columns. CASS's released code does this whatever its threshold is, because it divides by the
    sum of the singular values that it computed and not of all.
    """
    size = modes.values.abs().masked_fill(~modes.kept, -1.0)
    order = size.argsort(dim=-1, descending=True, stable=True)
    vectors = modes.vectors.gather(-1, order[..., None, :].expand_as(modes.vectors))
    ordered = Modes(modes.values.gather(-1, order), vectors, modes.kept.gather(-1, order))
    if rank == "cass_fixed_10":
        return ordered.padded(10)
    held = widest(ordered.values.abs()).cumsum(-1)
    needed = energy * held[..., -1:] * (1.0 - 1e-12)
    # A mode is needed where those before it hold too little.
    have = ordered.kept & (F.pad(held, (1, 0))[..., :-1] < needed)
    return Modes(ordered.values * have, ordered.vectors * have[..., None, :], have).padded(k)


def scaled(
    values: Tensor,
    kept: Tensor,
    scaling: Scaling = "none",
    *,
    largest: float = 1.5,
    smallest: float = 0.5,
    power: float = 2.0,
) -> Tensor:
    """Make eigenvalues more unequal, ``[B, heads, k]``; those not kept stay 0.

    ``cass``: the largest magnitude times 1.5, the smallest times 0.5, linear between (arXiv
    2411.17150 and its released code). Magnitudes are the singular values that it scales, so every
    mode keeps its sign; equal ones stay as they are. This is nearly an affine map of the graph's
    weights, so a later standardisation almost undoes it. ``power``: sign(l) |l|^p over the
    largest |l|^(p - 1), which survives. The largest stays as it is, so no power overflows.
    """
    if scaling == "none":
        return values
    size = values.abs()
    if scaling == "power":
        most = size.amax(-1, keepdim=True)
        return values.sign() * most * (size / torch.where(most > 0, most, 1.0)) ** power
    low = size.masked_fill(~kept, float("inf")).amin(-1, keepdim=True)
    high = size.masked_fill(~kept, float("-inf")).amax(-1, keepdim=True)
    spread = high > low
    place = torch.where(spread, (size - low) / torch.where(spread, high - low, 1.0), 0.0)
    stretched = place * (largest * high - smallest * low) + smallest * low
    return torch.where(spread & kept, values.sign() * stretched, values)


def signed(vectors: Tensor) -> Tensor:
    """Give eigenvectors ``[..., N, k]`` a positive largest entry.

    Their sign is free, and a cache that is made again should hold the same.
    """
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def rebuilt(values: Tensor, vectors: Tensor) -> Tensor:
    """Return U diag(values) U^T, ``[B, heads, N, N]``."""
    return (vectors * values[..., None, :]) @ vectors.mT


def shares(values: Tensor, least: float = 1e-12) -> Tensor:
    """Divide a spectrum by the sum of its magnitudes; fade to 0 where that is below ``least``."""
    return values / values.abs().sum(-1, keepdim=True).clamp(min=least)


def effective_rank(values: Tensor) -> Tensor:
    """Return exp(entropy) of the shares of a spectrum, ``[B, heads]``.

    Negative values count as 0; an empty spectrum gives 0. Roy and Vetterli, "The effective rank"
    (EUSIPCO 2007), on eigenvalues.
    """
    p = shares(values.clamp(min=0.0))
    return torch.exp(-torch.special.xlogy(p, p.clamp(min=1e-30)).sum(-1)) * (p.sum(-1) > 0)


def heat_trace(values: Tensor, kept: Tensor, times: Sequence[float] = (0.1, 1.0, 10.0)) -> Tensor:
    """Return the sum of exp(-t l) over a Laplacian's eigenvalues, for every t."""
    t = constant(tuple(times), values.dtype, values.device)
    return (torch.exp(-values[..., None] * t) * kept[..., None]).sum(-2)


@unrounded
def graph_fourier(nodes: Tensor, vectors: Tensor) -> Tensor:
    """Return U^T X, the coefficients of node features in eigenvectors, ``[B, heads, k, d]``.

    Vectors are 0 on void nodes, so those do not count.
    """
    return vectors.mT @ widened(nodes)


def _parted(graph: Tensor, valid: Tensor, end: End) -> Tensor:
    """Return the graph with void nodes as eigenvalues of their own.

    They lie beyond the end of the spectrum that is not returned (Gershgorin).
    """
    graph = widened(graph)
    beyond = graph.detach().abs().sum(-1).amax(-1, keepdim=True) + 1.0
    void = beyond * ~valid[:, None]
    return graph + torch.diag_embed(-void if end == "largest" else void)
