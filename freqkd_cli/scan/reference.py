"""The selective scan as in the paper: one step after another, in plain torch with autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def scan(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return ``y_t = sum_n C_t[n] h_t[n]`` with ``h_t = exp(step_t A) h_{t-1} + step_t B_t u_t``.

    ``h_0 = 0``. Differentiable in everything.

    Args:
        u, step: ``[batch, d, L]``; A: ``[d, N]``; B, C: ``[batch, groups, N, L]``.
    """
    rows = u.shape[1] // B.shape[1]
    B, C = (x.repeat_interleave(rows, dim=1) for x in (B, C))  # [batch, d, N, L]
    state = torch.zeros_like(B[..., 0])
    y = []
    # unbind, not indexing: the gradient of each index is a tensor of zeros as long as the sequence.
    for x, now, written, read in zip(
        *(x.unbind(-1) for x in (u.unsqueeze(2), step.unsqueeze(2), B, C)), strict=True
    ):
        state = torch.exp(now * A) * state + now * x * written
        y.append((read * state).sum(-1))
    return torch.stack(y, dim=-1)
