"""A graph as the losses see it: by factors (:class:`Gram`), linear in N, or as a matrix (:class:`Dense`). Both answer the same calls."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freqkd_cli.spectral.graph import Kernel, affinity, count, kernel, pairs, unrounded
from freqkd_cli.spectral.modes import (
    Modes,
    eigenpairs,
    eigenvalues,
    gram_eigenpairs,
    gram_eigenvalues,
    rebuilt,
)

COSINE_FLOOR = 1e-6
"""Relations of cosines that vary less than this are rounding."""

OTHER_FLOOR = 1e-10

STOCHASTIC_FLOOR = 1e-3
"""Of a graph whose rows add up to 1, what varies less than this share of an even row, or has a smaller trace or spectrum, is rounding."""


@dataclass(frozen=True)
class Gram:
    """R R^T, never formed unless :meth:`dense` is asked for.

    Attributes:
        rows: ``[B, heads, N, d]`` of :func:`freqkd_cli.spectral.graph.graph_rows`.
        valid: ``[B, N]`` bool.
        cosines: the rows are centred and of unit norm, so no mode is constant; else the first one about is.
    """

    rows: Tensor
    valid: Tensor
    cosines: bool = True

    @property
    def heads(self) -> int:
        return self.rows.shape[1]

    @property
    def constant_mode(self) -> bool:
        """Whether the first eigenvector is about constant, and says nothing about objects."""
        return not self.cosines

    @property
    def least(self) -> float:
        """A spectrum whose magnitudes have a smaller sum is rounding."""
        return 1e-12

    def dense(self) -> Tensor:
        """``[B, heads, N, N]``."""
        return affinity(self.rows)

    def edges(self, how: Kernel, tau: float = 0.1) -> Tensor:
        """The graph without negative edges and self-loops, for degrees and Laplacians."""
        graph = self.dense()
        # A flat map leaves rounding, which a Laplacian, free of the edges' scale, would take for a graph like any other.
        return kernel(
            graph - COSINE_FLOOR if how == "relu" and self.cosines else graph, self.valid, how, tau
        )

    def eigenvalues(self, k: int) -> Tensor:
        """The k largest, ``[B, heads, k]``, differentiable."""
        return gram_eigenvalues(self.rows, k)

    def modes(self, k: int | None = None) -> Modes:
        """The k largest modes or all, without gradient."""
        return gram_eigenpairs(self.rows, k)

    def split(self) -> tuple[Tensor | None, Modes]:
        """The vector of the Perron mode, of which this kind has none, and all modes."""
        return None, self.modes()

    def without(self, vector: Tensor | None) -> Gram:
        """Itself: only a :class:`Dense` graph has a Perron mode to be rid of."""
        return self

    def trace(self) -> Tensor:
        """Sum of the eigenvalues, ``[B, heads]``, above 0."""
        return self.rows.square().sum((-2, -1)) + self._floor * count(self.valid)

    @property
    def _floor(self) -> float:
        return COSINE_FLOOR if self.cosines else OTHER_FLOOR

    def unit(self) -> Tensor:
        """The size of an entry that means something, ``[B, heads]``, without gradient: a cosine of 1, else the mean of the diagonal."""
        size = self.trace().detach() / count(self.valid)
        return size.clamp(min=1.0) if self.cosines else size

    def in_basis(self, vectors: Tensor) -> Tensor:
        """U^T A U / trace(A), ``[B, heads, k, k]``, for the teacher's vectors ``[B, heads, N, k]``."""
        return _gram_in_basis(self.rows, vectors) / self.trace()[..., None, None]

    def correlation_distance(self, values: Tensor, vectors: Tensor) -> Tensor:
        """1 - correlation with U diag(values) U^T over the pairs of different valid nodes, ``[B, heads]``. Linear in N."""
        return _from_sums(self.valid, _gram_sums(self.rows, values, vectors), self._floor)

    def mean(self) -> Gram:
        """The mean graph of the heads, as one head."""
        rows = self.rows.transpose(1, 2).flatten(2)[:, None] * self.heads**-0.5
        return replace(self, rows=rows)

    def pick(self, heads: Tensor) -> Gram:
        """The heads with these numbers, ``[B, m]`` int64."""
        return replace(self, rows=picked(self.rows, heads))


@dataclass(frozen=True)
class Dense:
    """A symmetric matrix, such as attention or state affinity: edges are not negative, rows add up to about 1, so the first mode is a
    Perron mode: how much every node is looked at.

    Attributes:
        weights: ``[B, heads, N, N]`` of :func:`freqkd_cli.spectral.graph.symmetric`.
        valid: ``[B, N]`` bool.
        perron: the graph has a Perron mode, which :meth:`eigenvalues` and :meth:`modes` leave out.
    """

    weights: Tensor
    valid: Tensor
    perron: bool = True

    @property
    def heads(self) -> int:
        return self.weights.shape[1]

    @property
    def constant_mode(self) -> bool:
        """False: what this gives of its spectrum is without the Perron mode."""
        return False

    @property
    def least(self) -> float:
        """A spectrum whose magnitudes have a smaller sum is rounding; the Perron mode's is about 1."""
        return STOCHASTIC_FLOOR

    def dense(self) -> Tensor:
        """``[B, heads, N, N]``."""
        return self.weights

    def edges(self, how: Kernel, tau: float = 0.1) -> Tensor:
        """The graph as it is, without self-loops; it needs no kernel."""
        return self.weights.masked_fill(~pairs(self.valid), 0.0)

    def eigenvalues(self, k: int) -> Tensor:
        """The k largest by value, ``[B, heads, k]``, differentiable."""
        return eigenvalues(self.weights, self.valid, k + self.perron)[..., int(self.perron) :]

    def modes(self, k: int | None = None) -> Modes:
        """The k largest modes by value or all, without gradient."""
        return eigenpairs(self.weights, self.valid, None if k is None else k + self.perron).part(
            int(self.perron)
        )

    def split(self) -> tuple[Tensor | None, Modes]:
        """The vector of the Perron mode, ``[B, heads, N]``, None where there is none to leave out, and all other modes."""
        modes = eigenpairs(self.weights, self.valid)
        return (modes.vectors[..., 0], modes.part(1)) if self.perron else (None, modes)

    def without(self, vector: Tensor | None) -> Dense:
        """P A P, P = I - u u^T: the graph without the Perron mode u ``[B, heads, N]`` of the graph that it is compared with.

        That one's, since the student's own would need an eigenvector with a gradient; where both graphs are equal, so are these. None
        stands for the even vector, for a graph of centred features has no such mode.
        """
        if not self.perron:
            return self
        even = (self.valid * count(self.valid).rsqrt())[:, None]
        return Dense(
            _projected(self.weights, even if vector is None else vector), self.valid, perron=False
        )

    def trace(self) -> Tensor:
        """Sum of the eigenvalues, ``[B, heads]``, above 0."""
        return self.weights.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=STOCHASTIC_FLOOR)

    def unit(self) -> Tensor:
        """The size of an entry that means something, ``[B, 1]``: one of an even row."""
        return count(self.valid).reciprocal()

    def in_basis(self, vectors: Tensor) -> Tensor:
        """U^T A U / trace(A), ``[B, heads, k, k]``."""
        return _dense_in_basis(self.weights, vectors) / self.trace()[..., None, None]

    def correlation_distance(self, values: Tensor, vectors: Tensor) -> Tensor:
        """1 - correlation with U diag(values) U^T over the pairs of different valid nodes, ``[B, heads]``."""
        return correlation_distance(
            self.weights, rebuilt(values, vectors), self.valid, STOCHASTIC_FLOOR * self.unit()
        )

    def mean(self) -> Dense:
        """The mean graph of the heads, as one head."""
        return replace(self, weights=self.weights.mean(1, keepdim=True))

    def pick(self, heads: Tensor) -> Dense:
        """The heads with these numbers, ``[B, m]`` int64."""
        return replace(self, weights=picked(self.weights, heads))


Graph = Gram | Dense


@unrounded
def correlation_distance(
    student: Tensor, teacher: Tensor, valid: Tensor, floor: float | Tensor = OTHER_FLOOR
) -> Tensor:
    """1 - correlation of two matrices ``[B, heads, N, N]`` over the pairs of different valid nodes, ``[B, heads]``.

    1 with no gradient where there are no two valid nodes; ``floor``: deviations of the student's that count as rounding, ``[B, 1]`` or one.
    """
    off, diagonal = pairs(valid), teacher.diagonal(dim1=-2, dim2=-1).square().sum(-1)
    student, teacher = student.masked_fill(~off, 0.0), teacher.masked_fill(~off, 0.0)
    products = (student, teacher, student.square(), teacher.square(), student * teacher)
    return _from_sums(valid, (*(x.sum((-2, -1)) for x in products), diagonal), floor)


@unrounded
def _gram_sums(rows: Tensor, values: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
    """The sums of :func:`correlation_distance` from factors: whole matrices less their diagonals, and the teacher's diagonal."""
    ours, theirs = rows.square().sum(-1), (vectors.square() * values[..., None, :]).sum(-1)
    inner = vectors.mT @ vectors  # the identity, but for vectors that a cache rounded
    return (
        rows.sum(-2).square().sum(-1) - ours.sum(-1),
        (vectors.sum(-2).square() * values).sum(-1) - theirs.sum(-1),
        affinity(rows.mT).square().sum((-2, -1)) - ours.square().sum(-1),
        (inner.square() * values[..., None] * values[..., None, :]).sum((-2, -1))
        - theirs.square().sum(-1),
        ((rows.mT @ vectors).square().sum(-2) * values).sum(-1) - (ours * theirs).sum(-1),
        theirs.square().sum(-1),
    )


def _from_sums(valid: Tensor, sums: tuple[Tensor, ...], floor: float | Tensor) -> Tensor:
    """From the sums over pairs of a, b, a^2, b^2, a b, and over nodes of the diagonal of b squared, all ``[B, heads]``."""
    nodes = valid.sum(1, keepdim=True)
    a, b, aa, bb, ab = (x / (nodes * (nodes - 1)).clamp(min=1) for x in sums[:5])
    diagonal = sums[5] / nodes.clamp(min=1)
    # Relative floors as well: a mean far from 0 leaves rounding in the variance, and so does a diagonal beside which the rest is small.
    ours = (aa - a * a).clamp(min=0.0) + 1e-7 * aa.clamp(min=0.0) + floor**2
    theirs = (
        (bb - b * b).clamp(min=0.0) + 1e-7 * bb.clamp(min=0.0) + 1e-8 * diagonal + OTHER_FLOOR**2
    )
    return 1.0 - (ab - a * b) * torch.rsqrt(ours) * torch.rsqrt(theirs)


@unrounded
def _gram_in_basis(rows: Tensor, vectors: Tensor) -> Tensor:
    # In this order the gradient has the layout of a map, channel by channel, as the rows have.
    return affinity((rows.mT @ vectors).mT)


@unrounded
def _dense_in_basis(graph: Tensor, vectors: Tensor) -> Tensor:
    return vectors.mT @ (graph @ vectors)


@unrounded
def _projected(graph: Tensor, vector: Tensor) -> Tensor:
    u = vector[..., None].to(graph.dtype)
    reach = graph @ u
    return graph - u @ reach.mT - reach @ u.mT + (u.mT @ reach) * (u @ u.mT)


def picked(x: Tensor, heads: Tensor) -> Tensor:
    """Of ``[B, heads, ...]`` those with these numbers, ``[B, m]`` int64."""
    return x.gather(
        1, heads.reshape(*heads.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
    )
