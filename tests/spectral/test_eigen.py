"""Eigenvalues and their gradients against torch.linalg, and the hard cases."""

from __future__ import annotations

import pytest
import torch

from freqkd_cli.errors import TrainingFailed
from freqkd_cli.spectral.eigen import every_mode, outermost, smaller_gram
from freqkd_cli.spectral.modes import gram_eigenvalues


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def symmetric(*shape: int) -> torch.Tensor:
    x = drawn(*shape)
    return x + x.mT


@pytest.mark.parametrize("batch", [(), (1, 1), (2, 1), (7,), (4, 2), (2, 3, 2)])
def test_batches_of_any_form(batch):
    matrix = symmetric(*batch, 9, 9)
    values, vectors = every_mode(matrix)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrix))
    torch.testing.assert_close((vectors * values[..., None, :]) @ vectors.mT, matrix)
    torch.testing.assert_close(outermost(matrix, 4), values.flip(-1)[..., :4])
    torch.testing.assert_close(outermost(matrix, 4, "smallest"), values[..., :4])
    assert outermost(matrix, 20).shape == (*batch, 9)


@pytest.mark.parametrize("end", ["largest", "smallest"])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_gradients_of_a_matrix(end, k):
    matrix = symmetric(5, 2, 9, 9).requires_grad_()
    share = drawn(5, 2, k)
    (gradient,) = torch.autograd.grad((outermost(matrix, k, end) * share).sum(), matrix)
    values = torch.linalg.eigvalsh(matrix)
    chosen = values.flip(-1)[..., :k] if end == "largest" else values[..., :k]
    torch.testing.assert_close(gradient, torch.autograd.grad((chosen * share).sum(), matrix)[0])


@pytest.mark.parametrize("shape", [(5, 2, 12, 4), (5, 2, 4, 12), (3, 1, 6, 6)])
def test_gradients_of_rows(shape):
    """More nodes than channels, and fewer: through whichever Gram matrix is smaller."""
    rows = drawn(*shape).requires_grad_()
    k = min(shape[-2:]) - 1
    share = drawn(*shape[:2], k)
    values = gram_eigenvalues(rows, k)
    assert smaller_gram(rows).shape[-1] == min(shape[-2:])
    (gradient,) = torch.autograd.grad((values * share).sum(), rows)
    squares = torch.linalg.svdvals(rows)[..., :k].square()
    torch.testing.assert_close(values, squares)
    torch.testing.assert_close(gradient, torch.autograd.grad((squares * share).sum(), rows)[0])
    assert torch.autograd.gradcheck(lambda x: gram_eigenvalues(x, k), rows)


def test_equal_eigenvalues_have_a_finite_gradient():
    matrix = torch.eye(6).expand(3, 1, 6, 6).clone().requires_grad_()
    outermost(matrix, 2).sum().backward()
    assert torch.isfinite(matrix.grad).all() and float(
        matrix.grad.diagonal(dim1=-2, dim2=-1).sum()
    ) == pytest.approx(6.0)


def test_values_alone_need_no_vectors(monkeypatch):
    monkeypatch.setattr(torch.linalg, "eigh", None)
    assert outermost(symmetric(4, 5, 5), 2).shape == (4, 2)


@pytest.mark.parametrize("solve", [every_mode, lambda matrix: (outermost(matrix, 4).flip(-1),)])
def test_what_does_not_converge_is_solved_in_float64(monkeypatch, solve):
    for name in ("eigh", "eigvalsh"):
        real = getattr(torch.linalg, name)

        def stubborn(matrix, real=real):
            if matrix.dtype == torch.float32:
                raise torch.linalg.LinAlgError("no convergence")
            return real(matrix)

        monkeypatch.setattr(torch.linalg, name, stubborn)
    matrix = symmetric(4, 5, 5).float()
    values = solve(matrix)[0]
    assert values.dtype == torch.float32
    known = torch.linalg.eigvalsh(matrix.double()).float()
    torch.testing.assert_close(values, known[..., -values.shape[-1] :])


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(strange):
    matrix = symmetric(4, 5, 5)
    matrix[2, 0, 0] = strange
    with pytest.raises(TrainingFailed, match="a graph is not finite"):
        outermost(matrix, 2)
    with pytest.raises(TrainingFailed, match="a graph is not finite"):
        gram_eigenvalues(matrix, 2)
