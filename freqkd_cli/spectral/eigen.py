"""Eigenvalues of batches of symmetric matrices: on a CPU side by side, with a gradient that costs what the eigenvalues asked for cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqkd_cli.errors import TrainingFailed
from freqkd_cli.spectral.graph import affinity
from freqkd_cli.threads import side_by_side

End = Literal["largest", "smallest"]

T = TypeVar("T", Tensor, tuple[Tensor, Tensor])


class _Outermost(torch.autograd.Function):
    """d l / d M = v v^T for a symmetric M: finite where eigenvalues are equal, and a product with k columns instead of all."""

    @staticmethod
    def forward(ctx, matrix: Tensor, k: int, end: End) -> Tensor:
        values, vectors = _modes(matrix, k, end, ctx.needs_input_grad[0])
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
        values, vectors = _modes(smaller_gram(rows), k, "largest", ctx.needs_input_grad[0])
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
    return _solved(torch.linalg.eigh, matrix)


def smaller_gram(rows: Tensor) -> Tensor:
    """R^T R or R R^T, whichever is smaller; their eigenvalues that are not 0 are the same."""
    return affinity(rows.mT if rows.shape[-1] < rows.shape[-2] else rows)


def from_end(x: Tensor, k: int, end: End) -> Tensor:
    """k of what lies in ascending order along the last axis, from one end."""
    return x[..., :k] if end == "smallest" else x[..., max(x.shape[-1] - k, 0) :].flip(-1)


def _modes(matrix: Tensor, k: int, end: End, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """The k eigenvalues from one end, and their vectors where these are wanted."""
    if not wanted:
        return from_end(_solved(torch.linalg.eigvalsh, matrix), k, end), None
    values, vectors = every_mode(matrix)
    return from_end(values, k, end), from_end(vectors, k, end)


def _solved(solve: Callable[[Tensor], T], matrix: Tensor) -> T:
    """``solve(matrix)``; one that does not converge in float32 does in float64."""
    if not bool(torch.isfinite(matrix).all()):
        raise TrainingFailed(
            "a graph is not finite", need="finite features at the tap that it is made of", tip="a lower train.lr, or precision: fp32"
        )
    try:
        return _side_by_side(solve, matrix)
    except torch.linalg.LinAlgError:
        found = _side_by_side(solve, matrix.double())
        return found.to(matrix.dtype) if isinstance(found, Tensor) else (found[0].to(matrix.dtype), found[1].to(matrix.dtype))


def _side_by_side(solve: Callable[[Tensor], T], matrix: Tensor) -> T:
    """LAPACK takes the matrices of a batch one after the other, and gains little from threads inside one of a few hundred rows."""
    whole = matrix.reshape(-1, *matrix.shape[-2:])
    lanes = min(torch.get_num_threads(), len(whole))
    if matrix.device.type != "cpu" or lanes < 2:
        return solve(matrix)
    parts = whole.tensor_split(lanes)
    found = side_by_side(lanes, lambda lane: solve(parts[lane]))
    if isinstance(found[0], Tensor):
        return torch.cat(found).view(matrix.shape[:-1])
    values, vectors = zip(*found, strict=True)
    return torch.cat(values).view(matrix.shape[:-1]), torch.cat(vectors).view(matrix.shape)
