"""The selective scan in about log2(length) tensor operations.

Exported graphs hold this form, and accelerators without mamba-ssm's kernel run it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def scan(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Compute :func:`freqkd_cli.scan.reference.scan`.

    The length must be a number; the batch may be a symbol of the exporter.
    """
    # [batch, groups, rows, 1, L]
    u, step = (x.unflatten(1, (B.shape[1], -1)).unsqueeze(3) for x in (u, step))
    A = A.unflatten(0, (B.shape[1], -1)).unsqueeze(-1)
    state = states(torch.exp(step * A), step * u * B.unsqueeze(2))
    return (C.unsqueeze(2) * state).sum(3).flatten(1, 2)


def states(a: Tensor, x: Tensor) -> Tensor:
    """Return ``h_t = a_t h_{t-1} + x_t`` along the last axis, by halving.

    Two steps are one step with a = a1 a0 and x = a1 x0 + x1 (odd-even reduction: Blelloch, Prefix
    Sums and Their Applications, 1990). This is about three times the work of a walk. Decays are
    only multiplied, never divided, so it is as accurate for any length.
    """
    length = a.shape[-1]
    if length == 1:
        return x
    (a0, a1), (x0, x1) = (
        y[..., : length // 2 * 2].unflatten(-1, (length // 2, 2)).unbind(-1) for y in (a, x)
    )
    second = states(a1 * a0, a1 * x0 + x1)
    first = a0 * pad(second[..., :-1], (1, 0)) + x0
    h = torch.stack([first, second], dim=-1).flatten(-2)
    return h if length % 2 == 0 else torch.cat([h, a[..., -1:] * h[..., -1:] + x[..., -1:]], dim=-1)
