"""The selective scan of a Mamba layer: one signature, whatever computes it.

``h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t`` and ``y_t = C_t h_t + D u_t`` for every row d and state n, with
``delta = softplus(delta + delta_bias)``: equation 2 and algorithm 2 of Mamba (arXiv 2312.00752), B discretised to first order as in its
released code. Shapes are those of mamba-ssm's ``selective_scan_fn``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from freqkd_cli.errors import ShapeError
from freqkd_cli.scan import reference


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
    """``[batch, d, L]`` -> ``[batch, d, L]``, float32, or float64 where u is; half floats are widened.

    Args:
        u, delta: ``[batch, d, L]``, input and step size (before bias and softplus).
        A: ``[d, N]``, negative.
        B, C: ``[batch, groups, N, L]``; the d rows are split into ``groups`` equal blocks that share them.
        D, delta_bias: ``[d]``, skip and bias of the step size.

    Raises:
        ShapeError: shapes that do not belong together.
    """
    _check(u, delta, A, B, C, D, delta_bias)
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    with torch.autocast(u.device.type, enabled=False):
        u, delta, A, B, C, D = (x.to(dtype) for x in (u, delta, A, B, C, D))
        if delta_bias is not None:
            delta = delta + delta_bias.to(dtype)[:, None]
        if delta_softplus:
            delta = softplus(delta)
        return reference.scan(u, delta, A, B, C) + D[:, None] * u


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor | None) -> None:
    batch, rows, length = u.shape
    groups, states = B.shape[1], A.shape[-1]
    needed = {
        "delta": (delta, (batch, rows, length)),
        "A": (A, (rows, states)),
        "B": (B, (batch, groups, states, length)),
        "C": (C, (batch, groups, states, length)),
        "D": (D, (rows,)),
        "delta_bias": (delta_bias, (rows,)),
    }
    wrong = [f"{name} {tuple(x.shape)}, not {shape}" for name, (x, shape) in needed.items() if x is not None and tuple(x.shape) != shape]
    if rows % groups:
        wrong.append(f"{rows} rows do not split into {groups} groups")
    if wrong:
        raise ShapeError("the tensors of a selective scan do not belong together", got="; ".join(wrong), need=f"u {tuple(u.shape)}")
