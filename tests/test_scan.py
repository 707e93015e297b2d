"""The selective scan and the four orders, against closed forms, autograd and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freqkd_cli.errors import ShapeError
from freqkd_cli.scan.cross import cross_merge, cross_scan
from freqkd_cli.scan.selective import selective_scan


def problem(batch=2, rows=4, length=7, states=2, groups=2, dtype=torch.float64, seed=0) -> dict[str, torch.Tensor]:
    """Arguments of a scan in the range of a fresh VMamba: steps 1e-3 to 0.1, A = -1, -2, ..., the bias an inverse softplus."""
    rng = np.random.default_rng(seed)
    made = {
        "u": rng.standard_normal((batch, rows, length)),
        "delta": 0.5 * rng.standard_normal((batch, rows, length)),
        "A": -np.tile(np.arange(1.0, states + 1), (rows, 1)) * rng.uniform(0.5, 2, (rows, 1)),
        "B": rng.standard_normal((batch, groups, states, length)),
        "C": rng.standard_normal((batch, groups, states, length)),
        "D": rng.standard_normal(rows),
        "delta_bias": np.log(np.expm1(np.exp(rng.uniform(np.log(1e-3), np.log(0.1), rows)))),
    }
    return {name: torch.from_numpy(value).to(dtype) for name, value in made.items()}


def hidden_attention(u, delta, A, B, C, D, delta_bias) -> np.ndarray:
    """y by the closed form of the recurrence, entry by entry in numpy: every step adds its own decayed share."""
    u, delta, A, B, C, D, bias = (x.detach().numpy() for x in (u, delta, A, B, C, D, delta_bias))
    step = np.logaddexp(0, delta + bias[:, None])
    y = D[:, None] * u
    block = u.shape[1] // B.shape[1]
    for b, d, i in np.ndindex(u.shape):
        for j in range(i + 1):
            decay = np.exp(A[d] * step[b, d, j + 1 : i + 1].sum())
            y[b, d, i] += (C[b, d // block, :, i] * decay * B[b, d // block, :, j]).sum() * step[b, d, j] * u[b, d, j]
    return y


@pytest.mark.parametrize("states", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_scan_is_its_closed_form(states, groups):
    given = problem(states=states, groups=groups)
    np.testing.assert_allclose(selective_scan(**given).numpy(), hidden_attention(**given), rtol=1e-12, atol=1e-13)


def test_a_constant_input_settles_where_it_must():
    """With constant u, delta, B, C the state ends at delta B u / (1 - exp(delta A))."""
    length = 4000
    ones = torch.ones(1, 1, length, dtype=torch.float64)
    y = selective_scan(
        ones, 0.02 * ones, torch.tensor([[-0.5]]).double(), 3 * ones[:, None], 2 * ones[:, None], ones[0, :, 0], delta_softplus=False
    )
    assert y[0, 0, -1].item() == pytest.approx(1 + 2 * 3 * 0.02 / (1 - np.exp(-0.01)), rel=1e-12)


def test_half_floats_are_widened_and_autocast_is_off():
    given = problem(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(selective_scan(**given), selective_scan(**given))
        y = selective_scan(**(given | {"u": given["u"].bfloat16()}))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, selective_scan(**(given | {"u": given["u"].bfloat16().float()})))


def test_tensors_that_do_not_belong_together_are_named():
    given = problem()
    with pytest.raises(ShapeError, match=r"B \(2, 2, 2, 6\), not \(2, 2, 2, 7\)"):
        selective_scan(**(given | {"B": given["B"][..., :-1]}))
    with pytest.raises(ShapeError, match="4 rows do not split into 3 groups"):
        selective_scan(**problem(groups=3))


SIZES = [(1, 1), (1, 5), (5, 1), (2, 3), (4, 4), (7, 5)]


@pytest.mark.parametrize("size", SIZES)
def test_the_four_orders_are_the_published_ones(size):
    height, width = size
    x = torch.arange(height * width).reshape(1, 1, height, width)
    rows = [i * width + j for i in range(height) for j in range(width)]
    columns = [i * width + j for j in range(width) for i in range(height)]
    assert cross_scan(x)[0, :, 0].tolist() == [rows, columns, rows[::-1], columns[::-1]]


@pytest.mark.parametrize("size", SIZES)
def test_merge_is_the_adjoint_of_scan(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, 3, size[0] * size[1], dtype=torch.float64, requires_grad=True)
    scanned, merged = cross_scan(x), cross_merge(y, size)
    torch.testing.assert_close((scanned * y).sum(), (x.flatten(2) * merged).sum())
    torch.testing.assert_close(torch.autograd.grad(scanned, x, y.detach())[0].flatten(2), merged)
    torch.testing.assert_close(torch.autograd.grad(merged, y, x.detach().flatten(2))[0], scanned)
    torch.testing.assert_close(cross_merge(scanned, size), 4 * x.flatten(2))
