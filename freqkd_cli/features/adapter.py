"""A training-only 1x1 convolution from the student's channels to the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """``y = P x`` over channels, without bias, on maps and on spectra alike: a 1x1 convolution commutes with the Fourier transform.

    Its parameters are trained with the student, live in the loss and are never exported.

    Args:
        student: channels that come in.
        teacher: channels that go out. Initialised as Kaiming normal over the fan out.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(teacher, student))
        if not self.weight.is_meta:  # a check of a recipe draws nothing, and on meta torch would import its compiler for it: seconds
            nn.init.kaiming_normal_(self.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """``[B, Cs, ...]`` -> ``[B, Ct, ...]``, in the type of ``x``."""
        # Not torch.matmul, which turns the product of a matrix that requires a gradient inside out, with copies: twice the time on a CPU.
        adapted = torch.bmm(self.weight.to(x.dtype).expand(len(x), -1, -1), x.flatten(2))
        return adapted.view(*adapted.shape[:2], *x.shape[2:])

    def variance(self, covariance: Tensor) -> Tensor:
        """Variances of the adapted channels, ``[B, Ct]``, from the covariance of the student's own, ``[B, Cs, Cs]``."""
        weight = self.weight.to(covariance.dtype)
        return (torch.matmul(weight, covariance) * weight).sum(-1)
