"""Eigenvalues of batches of symmetric matrices: on a CPU side by side, with a gradient that costs what the eigenvalues asked for cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqkd_cli.errors import TrainingFailed
from freqkd_cli.runtime.threads import side_by_side
from freqkd_cli.spectral.graph import affinity

End = Literal["largest", "smallest"]

WORTH_A_THREAD = 256
"""Rows of a matrix. A smaller one is solved in a millisecond or two, for which torch's own threads, still spinning from the operation
before, cost more than a thread gains: 1.2 to 1.4 of the time at 128 and 165 rows, 0.6 to 0.85 at 352 to 1,024 (two cores)."""

Modes = tuple[Tensor, Tensor | None]
"""Eigenvalues, and eigenvectors as columns where they are wanted."""


class _Outermost(torch.autograd.Function):
    """d l / d M = v v^T for a symmetric M: finite where eigenvalues are equal, and a product with k columns instead of all."""

    @staticmethod
    def forward(ctx, matrix: Tensor, k: int, end: End) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        values, vectors = _side_by_side(lambda part: _modes(part, k, end, wanted), matrix)
        ctx.save_for_backward(vectors)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (vectors,) = ctx.saved_tensors
        return (vectors * gradient[..., None, :]) @ vectors.mT, None, None


class _LargestOfGram(torch.autograd.Function):
    """The same through R^T R or R R^T to the rows, d l / d R = 2 R v v^T or 2 v v^T R, without a matrix of that size on the way back."""

    @staticmethod
    def forward(ctx, rows: Tensor, k: int) -> Tensor:
        ctx.thin = rows.shape[-1] < rows.shape[-2]
        wanted = ctx.needs_input_grad[0]
        values, vectors = _side_by_side(
            lambda part: _modes(smaller_gram(part), k, "largest", wanted), rows
        )
        ctx.save_for_backward(rows, vectors)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        rows, vectors = ctx.saved_tensors
        weighted = vectors * (2.0 * gradient)[..., None, :]
        if ctx.thin:  # written so that the gradient has the layout of a map, channel by channel, as the rows have
            return (weighted @ (vectors.mT @ rows.mT)).mT, None
        return weighted @ (vectors.mT @ rows), None


def outermost(matrix: Tensor, k: int, end: End = "largest") -> Tensor:
    """The min(k, n) eigenvalues of symmetric ``[..., n, n]`` from one end of the spectrum, its outermost first. Differentiable once.

    Raises:
        TrainingFailed: the matrix is not finite.
    """
    return _Outermost.apply(matrix, k, end)


def largest_of_gram(rows: Tensor, k: int) -> Tensor:
    """The min(k, n, d) largest eigenvalues of R R^T, descending, for rows ``[..., n, d]``. Differentiable once.

    Raises:
        TrainingFailed: the rows are not finite.
    """
    return _LargestOfGram.apply(rows, k)


@torch.no_grad()
def every_mode(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """All eigenvalues, ascending, and eigenvectors as columns, of symmetric ``[..., n, n]``, without gradient.

    Raises:
        TrainingFailed: the matrix is not finite.
    """
    values, vectors = _side_by_side(lambda part: _solved(part, True), matrix)
    assert vectors is not None
    return values, vectors


def smaller_gram(rows: Tensor) -> Tensor:
    """R^T R or R R^T, whichever is smaller; their eigenvalues that are not 0 are the same."""
    return affinity(rows.mT if rows.shape[-1] < rows.shape[-2] else rows)


def from_end(x: Tensor, k: int, end: End) -> Tensor:
    """k of what lies in ascending order along the last axis, from one end."""
    return x[..., :k] if end == "smallest" else x[..., max(x.shape[-1] - k, 0) :].flip(-1)


def _modes(matrix: Tensor, k: int, end: End, wanted: bool) -> Modes:
    """The k eigenvalues from one end, and their vectors where these are wanted."""
    values, vectors = _solved(matrix, wanted)
    return from_end(values, k, end), None if vectors is None else from_end(vectors, k, end)


def _solved(matrix: Tensor, wanted: bool) -> Modes:
    """All modes, ascending; of a matrix that does not converge in float32 by way of float64."""
    if not bool(torch.isfinite(matrix).all()):
        raise TrainingFailed(
            "a graph is not finite",
            need="finite features at the tap that it is made of",
            tip="a lower train.lr, or precision: fp32",
        )
    try:
        return _lapack(matrix, wanted)
    except torch.linalg.LinAlgError:
        values, vectors = _lapack(matrix.double(), wanted)
        return values.to(matrix.dtype), None if vectors is None else vectors.to(matrix.dtype)


def _lapack(matrix: Tensor, wanted: bool) -> Modes:
    if not wanted:
        return torch.linalg.eigvalsh(matrix), None
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors


def _side_by_side(work: Callable[[Tensor], Modes], x: Tensor) -> Modes:
    """``work`` on parts of a batch ``[..., n, m]``, a thread each.

    LAPACK takes the matrices of a batch one after the other, and gains little from threads inside one of some hundred rows.
    """
    whole = x.reshape(-1, *x.shape[-2:])
    lanes = min(torch.get_num_threads(), len(whole))
    if x.device.type != "cpu" or lanes < 2 or min(x.shape[-2:]) < WORTH_A_THREAD:
        return work(x)
    parts = whole.tensor_split(lanes)
    values, vectors = zip(*side_by_side(lanes, lambda lane: work(parts[lane])), strict=True)
    joined = None if vectors[0] is None else torch.cat(vectors).unflatten(0, x.shape[:-2])
    return torch.cat(values).unflatten(0, x.shape[:-2]), joined
