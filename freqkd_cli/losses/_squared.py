"""The squared error of adapted, standardised rows, with its gradient worked out in the same walk over memory.

The adapted spectrum of a batch is the largest tensor of a step, and a chain of torch operations walks over it some fifteen times. Here a
few samples at a time are adapted, compared and differentiated while they fit into the processor's cache; what is kept for the backward
pass has the student's own channels. Measured on one core with 128 to 256 channels of 45x60, batch 8: 0.7 of the processor time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SPREAD_EPS = 1e-6
"""Added to a channel's standard deviation where it is divided by."""

CHUNK = 1 << 19
"""Elements of adapted rows that are worked on at a time on a CPU: 2 MB of float32."""


@dataclass(frozen=True)
class Error:
    """What the student's rows are compared with.

    Attributes:
        teacher: ``[B, C, n]``.
        unit: what the teacher's rows must be multiplied by.
        weight: ``[B, n]``, what a squared difference counts.
        variance: ``[n]``, weights of the squares whose sum is a channel's variance, or None for rows that are not standardised.
        gain: ``[n]``, a filter of the student's side, or None.
    """

    teacher: Tensor
    unit: float
    weight: Tensor
    variance: Tensor | None
    gain: Tensor | None = None

    def __getitem__(self, part: slice) -> Error:
        return Error(
            self.teacher[part], self.unit, self.weight[part, None], self.variance, self.gain
        )


def squared_error(rows: Tensor, adapter: Tensor | None, error: Error) -> Tensor:
    """``sum weight * (gain * standardised(adapter rows) - unit * teacher)^2`` over everything, a scalar.

    Args:
        rows: ``[B, Cs, n]`` of the student, centred where they are standardised.
        adapter: ``[C, Cs]``, or None for rows that have the teacher's channels.

    Differentiable once, with respect to ``rows`` and ``adapter``.
    """
    return _SquaredError.apply(rows, adapter, error)


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, adapter: Tensor | None, error: Error) -> Tensor:
        differentiate = any(ctx.needs_input_grad)
        # torch.matmul turns the product of a matrix that requires a gradient inside out, with a copy of rows and result.
        rows, adapter = rows.detach(), None if adapter is None else adapter.detach()
        # Without an adapter nothing is gained by pieces; a GPU is better served with the whole.
        whole = adapter is None or rows.is_cuda
        samples = max(1, len(rows) if whole else CHUNK // max(1, error.teacher[0].numel()))
        total = rows.new_zeros(())
        of_rows, of_adapter = [], None if adapter is None else torch.zeros_like(adapter)
        for start in range(0, len(rows), samples):
            part = slice(start, start + samples)
            x = rows[part]
            y = x if adapter is None else torch.matmul(adapter, x)
            value, gradient = _compare(y, error[part], differentiate)
            total += value
            if differentiate and adapter is not None:
                of_adapter += torch.matmul(gradient, x.transpose(1, 2)).sum(0)
                gradient = torch.matmul(adapter.t(), gradient)
            of_rows.append(gradient)
        if differentiate:
            ctx.save_for_backward(
                of_rows[0] if len(of_rows) == 1 else torch.cat(of_rows), of_adapter
            )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        of_rows, of_adapter = ctx.saved_tensors
        return of_rows * gradient, None if of_adapter is None else of_adapter * gradient, None


def _compare(y: Tensor, error: Error, differentiate: bool) -> tuple[Tensor, Tensor]:
    """The error of some samples and its gradient with respect to their adapted rows ``[b, C, n]``."""
    inverse, deviation = None, None
    if error.variance is not None:
        deviation = torch.matmul(y * y, error.variance).sqrt_()[..., None]
        inverse = 1.0 / (deviation + SPREAD_EPS)
    ours = y if inverse is None else y * inverse
    difference = torch.sub(
        ours if error.gain is None else ours * error.gain, error.teacher, alpha=error.unit
    )
    weighted = difference * error.weight
    value = torch.dot(weighted.flatten(), difference.flatten())
    if not differentiate:
        return value, weighted
    gradient = weighted.mul_(2.0)
    if error.gain is not None:
        gradient.mul_(error.gain)
    if inverse is None:
        return value, gradient
    # y / (deviation + eps) changes by the deviation too; a flat channel has none, and no direction in which it would grow.
    slope = torch.linalg.vecdot(gradient, y)[..., None] * inverse * inverse
    slope = torch.where(deviation > 0, slope / torch.where(deviation > 0, deviation, 1.0), 0.0)
    return value, gradient.mul_(inverse).addcmul_(y * error.variance, slope, value=-1.0)
