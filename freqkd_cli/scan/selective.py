"""The selective scan of a Mamba layer: one signature for all backends.

``h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t`` and ``y_t = C_t h_t + D u_t`` for every row d and
state n, with ``delta = softplus(delta + delta_bias)``: equation 2 and algorithm 2 of Mamba (arXiv
2312.00752), with B discretised to first order as in its released code. Shapes are those of
mamba-ssm's ``selective_scan_fn``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from freqkd_cli.errors import ShapeError
from freqkd_cli.scan import compiled, parallel, reference
from freqkd_cli.scan.backends import choose, mamba_kernel


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor | None = None,
    *,
    delta_softplus: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Return the scan's output, ``[batch, d, L]`` float32, or float64 where u is.

    Half floats are widened. Differentiable in every tensor.

    Args: u, delta: ``[batch, d, L]``, input and step size (before bias and softplus). A:
        ``[d, N]``, negative. B, C: ``[batch, groups, N, L]``; the d rows are split into ``groups``
        equal blocks that share them. D, delta_bias: ``[d]``, skip and bias of the step size.
        backend: a name of ``backends.BACKENDS``. A graph that torch exports or compiles holds the
        parallel form for every name.

    Raises:
        ShapeError: the shapes do not fit together.
        UnknownName, UsageError: of ``backends.choose``.
    """
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    if u.is_meta:  # sizes alone
        return torch.empty_like(u, dtype=dtype)
    bias = torch.zeros_like(D) if delta_bias is None else delta_bias
    with torch.autocast(u.device.type, enabled=False):
        given = [x.to(dtype) for x in (u, delta, A, B, C, D, bias)]
        if torch.compiler.is_compiling():  # or exporting
            return _in_torch(parallel.scan, *given, delta_softplus)
        _check(*given)
        match choose(backend, u.device.type, dtype).name:
            case "numba":
                return compiled.scan(*given, delta_softplus)
            case "mamba-ssm":
                return _in_mamba(mamba_kernel()[0], *given, delta_softplus)
            case "parallel":
                return _in_torch(parallel.scan, *given, delta_softplus)
            case _:
                return _in_torch(reference.scan, *given, delta_softplus)


def step_sizes(delta: Tensor, bias: Tensor, delta_softplus: bool = True) -> Tensor:
    """Return the size of every step, ``[batch, d, L]``: softplus(delta + bias)."""
    delta = delta + bias.unsqueeze(-1)
    return softplus(delta) if delta_softplus else delta


def _in_torch(
    recurrence: Callable[..., Tensor], u, delta, A, B, C, D, bias, delta_softplus: bool
) -> Tensor:
    return recurrence(u, step_sizes(delta, bias, delta_softplus), A, B, C) + D.unsqueeze(-1) * u


def _in_mamba(
    kernel: Callable[..., Tensor], u, delta, A, B, C, D, bias, delta_softplus: bool
) -> Tensor:
    """Call mamba-ssm's kernel, which needs contiguous tensors of one type."""
    u, delta, A, B, C, D, bias = (x.contiguous() for x in (u, delta, A, B, C, D, bias))
    return kernel(u, delta, A, B, C, D=D, delta_bias=bias, delta_softplus=delta_softplus)


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> None:
    batch, rows, length = u.shape
    groups, states = B.shape[1], A.shape[-1]
    needed = {
        "delta": (delta, (batch, rows, length)),
        "A": (A, (rows, states)),
        "B": (B, (batch, groups, states, length)),
        "C": (C, (batch, groups, states, length)),
        "D": (D, (rows,)),
        "delta_bias": (bias, (rows,)),
    }
    wrong = [
        f"{name} {tuple(x.shape)}, not {shape}"
        for name, (x, shape) in needed.items()
        if tuple(x.shape) != shape
    ]
    if rows % groups:
        wrong.append(f"{rows} rows do not split into {groups} groups")
    if wrong:
        raise ShapeError(
            "the tensors of a selective scan do not fit together",
            got="; ".join(wrong),
            need=f"u {tuple(u.shape)}",
        )
