"""The two forms of a graph: factors (:class:`Gram`), linear in N, or a matrix (:class:`Dense`).

Both have the same methods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from freqkd_cli.spectral.graph import Kernel, affinity, count, kernel, pairs, picked, unrounded
from freqkd_cli.spectral.graph_correlation import (
    OTHER_FLOOR,
    correlation_distance,
    distance_from_sums,
    gram_sums,
)
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

STOCHASTIC_FLOOR = 1e-3
"""Share of an even row, for graphs whose rows add up to 1.

Relations that vary less are rounding, and so is a smaller trace or spectrum.
"""


@dataclass(frozen=True)
class Gram:
    """R R^T, which only :meth:`dense` and :meth:`edges` form.

    Attributes:
        rows: ``[B, heads, N, d]`` of :func:`freqkd_cli.spectral.graph.graph_rows`.
        valid: ``[B, N]`` bool.
        cosines: the rows are centred and of unit norm, so no mode is constant. Otherwise the first
            one nearly is.
    """

    rows: Tensor
    valid: Tensor
    cosines: bool = True

    @property
    def heads(self) -> int:
        return self.rows.shape[1]

    @property
    def constant_mode(self) -> bool:
        """Whether the first eigenvector is nearly constant, so unrelated to objects."""
        return not self.cosines

    @property
    def least(self) -> float:
        """Sum of a spectrum's magnitudes below which it is rounding."""
        return 1e-12

    def dense(self) -> Tensor:
        """``[B, heads, N, N]``."""
        return affinity(self.rows)

    def edges(self, kind: Kernel, tau: float = 0.1) -> Tensor:
        """Return the graph without negative edges and self-loops, for degrees and Laplacians."""
        graph = self.dense()
        # A Laplacian is free of the edges' scale, so the rounding of a flat map would be a graph.
        if kind == "relu" and self.cosines:
            graph = graph - COSINE_FLOOR
        return kernel(graph, self.valid, kind, tau)

    def eigenvalues(self, k: int) -> Tensor:
        """Return the k largest, ``[B, heads, k]``, differentiable."""
        return gram_eigenvalues(self.rows, k)

    def modes(self, k: int | None = None) -> Modes:
        """Return the k largest modes or all, without gradient."""
        return gram_eigenpairs(self.rows, k)

    def split(self) -> tuple[Tensor | None, Modes]:
        """Return None for the Perron mode, which this form does not have, and all modes."""
        return None, self.modes()

    def without(self, vector: Tensor | None) -> Gram:
        """Return itself: only a :class:`Dense` graph has a Perron mode to remove."""
        return self

    def trace(self) -> Tensor:
        """Return the sum of the eigenvalues, ``[B, heads]``, above 0."""
        return self.rows.square().sum((-2, -1)) + self._floor * count(self.valid)

    @property
    def _floor(self) -> float:
        return COSINE_FLOOR if self.cosines else OTHER_FLOOR

    def unit(self) -> Tensor:
        """Return the size of a typical relation, ``[B, heads]``, without gradient.

        A cosine of 1, or the mean of the diagonal of other products.
        """
        size = self.trace().detach() / count(self.valid)
        return size.clamp(min=1.0) if self.cosines else size

    def in_basis(self, vectors: Tensor) -> Tensor:
        """Return U^T A U / trace(A), ``[B, heads, k, k]``, for vectors ``[B, heads, N, k]``."""
        return _gram_in_basis(self.rows, vectors) / self.trace()[..., None, None]

    def correlation_distance(self, values: Tensor, vectors: Tensor) -> Tensor:
        """Return 1 - the correlation with U diag(values) U^T, ``[B, heads]``. Linear in N.

        Over the pairs of different valid nodes.
        """
        return distance_from_sums(self.valid, gram_sums(self.rows, values, vectors), self._floor)

    def mean(self) -> Gram:
        """Return the mean graph of the heads, as one head."""
        rows = self.rows.transpose(1, 2).flatten(2)[:, None] * self.heads**-0.5
        return replace(self, rows=rows)

    def pick(self, heads: Tensor) -> Gram:
        """Return the heads with these numbers, ``[B, m]`` int64."""
        return replace(self, rows=picked(self.rows, heads))


@dataclass(frozen=True)
class Dense:
    """A symmetric matrix, such as attention or state affinity.

    Edges are not negative and rows add up to about 1, so the first mode is a Perron mode: how much
    every node is attended to.

    Attributes:
        weights: ``[B, heads, N, N]`` of :func:`freqkd_cli.spectral.graph.symmetric`.
        valid: ``[B, N]`` bool.
        perron: there is a Perron mode, which :meth:`eigenvalues` and :meth:`modes` leave out.
    """

    weights: Tensor
    valid: Tensor
    perron: bool = True

    @property
    def heads(self) -> int:
        return self.weights.shape[1]

    @property
    def constant_mode(self) -> bool:
        """False: the spectrum of this form has no Perron mode."""
        return False

    @property
    def least(self) -> float:
        """Sum of a spectrum's magnitudes below which it is rounding; a Perron mode has 1."""
        return STOCHASTIC_FLOOR

    def dense(self) -> Tensor:
        """``[B, heads, N, N]``."""
        return self.weights

    def edges(self, kind: Kernel, tau: float = 0.1) -> Tensor:
        """Return the graph without self-loops; it needs no kernel."""
        return self.weights.masked_fill(~pairs(self.valid), 0.0)

    def eigenvalues(self, k: int) -> Tensor:
        """Return the k largest by value, ``[B, heads, k]``, differentiable."""
        return eigenvalues(self.weights, self.valid, k + self.perron)[..., int(self.perron) :]

    def modes(self, k: int | None = None) -> Modes:
        """Return the k largest modes by value or all, without gradient."""
        return eigenpairs(self.weights, self.valid, None if k is None else k + self.perron).part(
            int(self.perron)
        )

    def split(self) -> tuple[Tensor | None, Modes]:
        """Return the vector of the Perron mode, ``[B, heads, N]`` or None, and all other modes."""
        modes = eigenpairs(self.weights, self.valid)
        return (modes.vectors[..., 0], modes.part(1)) if self.perron else (None, modes)

    def without(self, vector: Tensor | None) -> Dense:
        """Return P A P with P = I - u u^T: the graph without the mode u ``[B, heads, N]``.

        u is the Perron mode of the graph that this one is compared with. The student's own would
        need an eigenvector with a gradient; where both graphs are equal, so are the two. None
        stands for the even vector, since a graph of centred features has no such mode.
        """
        if not self.perron:
            return self
        even = (self.valid * count(self.valid).rsqrt())[:, None]
        return Dense(
            _projected(self.weights, even if vector is None else vector), self.valid, perron=False
        )

    def trace(self) -> Tensor:
        """Return the sum of the eigenvalues, ``[B, heads]``, above 0."""
        return self.weights.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=STOCHASTIC_FLOOR)

    def unit(self) -> Tensor:
        """Return the size of a typical relation, ``[B, 1]``: an entry of an even row."""
        return count(self.valid).reciprocal()

    def in_basis(self, vectors: Tensor) -> Tensor:
        """Return U^T A U / trace(A), ``[B, heads, k, k]``."""
        return _dense_in_basis(self.weights, vectors) / self.trace()[..., None, None]

    def correlation_distance(self, values: Tensor, vectors: Tensor) -> Tensor:
        """Return 1 - the correlation with U diag(values) U^T, ``[B, heads]``.

        Over the pairs of different valid nodes.
        """
        return correlation_distance(
            self.weights, rebuilt(values, vectors), self.valid, STOCHASTIC_FLOOR * self.unit()
        )

    def mean(self) -> Dense:
        """Return the mean graph of the heads, as one head."""
        return replace(self, weights=self.weights.mean(1, keepdim=True))

    def pick(self, heads: Tensor) -> Dense:
        """Return the heads with these numbers, ``[B, m]`` int64."""
        return replace(self, weights=picked(self.weights, heads))


Graph = Gram | Dense


@unrounded
def _gram_in_basis(rows: Tensor, vectors: Tensor) -> Tensor:
    return affinity((rows.mT @ vectors).mT)


@unrounded
def _dense_in_basis(graph: Tensor, vectors: Tensor) -> Tensor:
    return vectors.mT @ (graph @ vectors)


@unrounded
def _projected(graph: Tensor, vector: Tensor) -> Tensor:
    u = vector[..., None].to(graph.dtype)
    reach = graph @ u
    return graph - u @ reach.mT - reach @ u.mT + (u.mT @ reach) * (u @ u.mT)
