"""Eigenvalues and eigenvectors of batches of symmetric matrices."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.errors import TrainingFailed
from freqkd_cli.runtime.precision import has_float64

End = Literal["largest", "smallest"]


def outermost(matrix: Tensor, k: int, end: End = "largest") -> Tensor:
    """Return the min(k, n) eigenvalues from one end of the spectrum, the outermost first.

    Of symmetric matrices ``[..., n, n]``. Differentiable, and finite where eigenvalues are equal:
    the gradient of an eigenvalue is v v^T.

    Raises:
        TrainingFailed: a matrix is not finite.
    """
    device = matrix.device
    matrix = matrix.to(exact_device(device))
    _require_finite_on_cpu(matrix)
    try:
        values = torch.linalg.eigvalsh(matrix)
    except torch.linalg.LinAlgError:  # some do not converge in float32
        require_finite(matrix)
        values = torch.linalg.eigvalsh(matrix.double()).to(matrix.dtype)
    return from_end(values, k, end).to(device)


@torch.no_grad()
def every_mode(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return all eigenvalues, ascending, and eigenvectors as columns, without gradient.

    Of symmetric matrices ``[..., n, n]``.

    Raises:
        TrainingFailed: a matrix is not finite.
    """
    _require_finite_on_cpu(matrix)
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:
        require_finite(matrix)
        values, vectors = (x.to(matrix.dtype) for x in torch.linalg.eigh(matrix.double()))
    return values, vectors


def exact_device(device: torch.device) -> torch.device:
    """Return where spectra of a device's tensors are computed: there, or on the CPU.

    MPS has neither float64 nor a solver.
    """
    return device if has_float64(device) else torch.device("cpu")


def exact(x: Tensor) -> Tensor:
    """Return a tensor in float64, where spectra are computed."""
    return x.to(exact_device(x.device)).double()


def smaller_gram(rows: Tensor) -> Tensor:
    """Return R^T R or R R^T of ``[..., n, d]``, whichever is smaller.

    Their eigenvalues that are not 0 are the same.
    """
    return rows.mT @ rows if rows.shape[-1] < rows.shape[-2] else rows @ rows.mT


def from_end(x: Tensor, k: int, end: End) -> Tensor:
    """Return k entries from one end of the last axis, which is in ascending order."""
    return x[..., :k] if end == "smallest" else x[..., max(x.shape[-1] - k, 0) :].flip(-1)


def _require_finite_on_cpu(matrix: Tensor) -> None:
    """Check before a CPU's solver; that of a GPU fails, or returns NaN, without another wait."""
    if matrix.device.type == "cpu":
        require_finite(matrix)


def require_finite(matrix: Tensor) -> None:
    """
    Raises:
        TrainingFailed: a matrix is not finite, so its spectrum is not defined.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise TrainingFailed(
            "a graph is not finite",
            got="NaN or infinity",
            need="finite features at the tap that it is made of",
            tip="a lower train.lr, or --set train.precision=float32",
        )
