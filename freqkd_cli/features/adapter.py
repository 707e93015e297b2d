"""The training-only 1x1 convolution from the student's channels to the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from freqkd_cli.spectral.distances import gram, inverse_deviation, varies


class Adapter(nn.Module):
    """``y = P x`` over channels, without bias.

    It acts on maps and on spectra alike, since a 1x1 convolution commutes with the Fourier
    transform. Its parameters are trained with the student, live in the loss and are never exported.

    Args:
        student: channels of the input.
        teacher: channels of the output. The initialisation is Kaiming normal over the fan out.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(teacher, student))
        # The check of a recipe builds losses on the meta device. Random numbers there would make
        # torch import its compiler, which takes seconds.
        if not self.weight.is_meta:
            nn.init.kaiming_normal_(self.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """``[B, Cs, ...]`` -> ``[B, Ct, ...]``, in the type of ``x``."""
        return adapted(x.flatten(2), self).unflatten(2, x.shape[2:])

    def variance(self, covariance: Tensor) -> Tensor:
        """Variances of the adapted channels ``[B, Ct]`` from the covariance ``[B, Cs, Cs]``."""
        weight = self.weight.to(covariance.dtype)
        product = torch.bmm(weight.expand(len(covariance), -1, -1), covariance)
        return torch.linalg.vecdot(product, weight)


def adapted(rows: Tensor, adapter: Adapter | None, scale: Tensor | None = None) -> Tensor:
    """Rows ``[B, Cs, n]`` through the adapter, then times ``scale`` ``[B, Ct, 1]``: ``[B, Ct, n]``.

    The scale is multiplied into the adapter's weights, so it costs no pass over the adapted rows.
    """
    if adapter is None:
        return rows if scale is None else rows * scale
    weight = adapter.weight.to(rows.dtype)
    # bmm, because torch.matmul copies a 2-D matrix that requires a gradient: twice the CPU time.
    return torch.bmm(weight.expand(len(rows), -1, -1) if scale is None else weight * scale, rows)


def variances(rows: Tensor, adapter: Adapter | None) -> tuple[Tensor, Tensor]:
    """Return the sum of squares of each adapted row ``[B, Ct]``, and of each row ``[B, Cs]``.

    The adapted rows are not made.
    """
    if adapter is None:
        own = rows.square().sum(-1)
        return own, own
    products = gram(rows)
    return adapter.variance(products), products.diagonal(dim1=-2, dim2=-1)


def products_of(rows: Tensor, adapter: Adapter | None, other: Tensor) -> Tensor:
    """Return the product of each adapted row with that of ``other`` ``[B, Ct, n]``: ``[B, Ct]``.

    The adapted rows are not made.
    """
    if adapter is None:
        return torch.linalg.vecdot(rows, other)
    return torch.linalg.vecdot(torch.bmm(other, rows.mT), adapter.weight.to(rows.dtype))


def standardising(rows: Tensor, adapter: Adapter | None, level: Tensor) -> Tensor:
    """Return what standardises each adapted channel, ``[B, Ct, 1]``: 1 / its deviation, bounded.

    See :func:`inverse_deviation`.

    Args:
        rows: ``[B, Cs, n]``; the sum of the squares of a row is the variance of its channel.
        level: ``[B]``, mean square of the tap, mean and all.
    """
    variance, own = variances(rows, adapter)
    return inverse_deviation(variance, varies(own, level))
