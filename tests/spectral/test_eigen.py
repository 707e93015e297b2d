"""Eigenvalues side by side and their gradients, against torch.linalg's own; 3 threads share batches of which no part is like another."""

from __future__ import annotations

import threading

import pytest
import torch

from freqkd_cli.errors import TrainingFailed
from freqkd_cli.spectral import eigen
from freqkd_cli.spectral.eigen import every_mode, largest_of_gram, outermost


@pytest.fixture(autouse=True)
def shared(three_threads, monkeypatch) -> None:
    """Small matrices are worth a thread here."""
    monkeypatch.setattr(eigen, "WORTH_A_THREAD", 1)


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
    theirs = values.flip(-1)[..., :k] if end == "largest" else values[..., :k]
    torch.testing.assert_close(gradient, torch.autograd.grad((theirs * share).sum(), matrix)[0])


@pytest.mark.parametrize("shape", [(5, 2, 12, 4), (5, 2, 4, 12), (3, 1, 6, 6)])
def test_gradients_of_rows(shape):
    """More nodes than channels, and fewer: through whichever Gram matrix is smaller."""
    rows = drawn(*shape).requires_grad_()
    k = min(shape[-2:]) - 1
    share = drawn(*shape[:2], k)
    found = largest_of_gram(rows, k)
    (gradient,) = torch.autograd.grad((found * share).sum(), rows)
    theirs = torch.linalg.svdvals(rows)[..., :k].square()
    torch.testing.assert_close(found, theirs)
    torch.testing.assert_close(gradient, torch.autograd.grad((theirs * share).sum(), rows)[0])
    assert torch.autograd.gradcheck(lambda x: largest_of_gram(x, k), rows)


def test_a_gradient_has_the_layout_of_its_map():
    rows = drawn(2, 1, 4, 12).mT.requires_grad_()
    largest_of_gram(rows, 3).sum().backward()
    assert rows.grad.mT.is_contiguous()


def test_equal_eigenvalues_have_a_finite_gradient():
    matrix = torch.eye(6).expand(3, 1, 6, 6).clone().requires_grad_()
    outermost(matrix, 2).sum().backward()
    assert torch.isfinite(matrix.grad).all() and float(
        matrix.grad.diagonal(dim1=-2, dim2=-1).sum()
    ) == pytest.approx(6.0)


def test_no_vectors_where_no_gradient_is_wanted(monkeypatch):
    monkeypatch.setattr(torch.linalg, "eigh", None)
    assert outermost(symmetric(4, 5, 5), 2).shape == (4, 2)


def test_every_thread_has_a_part(monkeypatch):
    seen, real = [], torch.linalg.eigh

    def watched(part):
        seen.append((threading.get_ident(), torch.get_num_threads(), len(part)))
        return real(part)

    monkeypatch.setattr(torch.linalg, "eigh", watched)
    every_mode(symmetric(8, 1, 5, 5))
    assert sorted(size for *_, size in seen) == [2, 3, 3]
    assert threading.get_ident() not in {thread for thread, *_ in seen} and {
        threads for _, threads, _ in seen
    } == {1}


def test_small_matrices_stay_in_one_thread(monkeypatch):
    monkeypatch.setattr(eigen, "WORTH_A_THREAD", 6)
    monkeypatch.setattr(eigen, "side_by_side", None)
    assert outermost(symmetric(8, 5, 5), 2).shape == (8, 2)


def test_what_does_not_converge_is_solved_in_float64(monkeypatch):
    real = torch.linalg.eigh

    def stubborn(part):
        if part.dtype == torch.float32:
            raise torch.linalg.LinAlgError("no convergence")
        return real(part)

    monkeypatch.setattr(torch.linalg, "eigh", stubborn)
    matrix = symmetric(4, 5, 5).float()
    values, vectors = every_mode(matrix)
    assert values.dtype == vectors.dtype == torch.float32
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrix))


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(strange):
    matrix = symmetric(4, 5, 5)
    matrix[2, 0, 0] = strange
    with pytest.raises(TrainingFailed, match="a graph is not finite"):
        outermost(matrix, 2)
    with pytest.raises(TrainingFailed, match="a graph is not finite"):
        largest_of_gram(matrix, 2)
