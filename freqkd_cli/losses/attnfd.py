"""Compare maps that channel and spatial attention have refined: AttnFD.

**What** ``sum of (P(A(S)) / |P(A(S))| - A0(T) / |A0(T)|)^2 / B``, norms over the whole batch. A is
the attention of CBAM: ``x1 = x sigmoid(m(mean x) + m(max x))`` with mean and max over cells and a
perceptron m, then ``x1 sigmoid(norm(conv7(max x1, mean x1)))`` with max and mean over channels. A0
is the same without parameters: m is the identity, and the sum of max and mean takes the place of
norm(conv7). P is a 1x1 convolution and a batch norm. ``norm: image`` divides each image by its own
norm and is B times as large.

**Why** Channels and cells that are strong in the teacher count more, so the student copies what the
teacher attends to. The norms make scales irrelevant.

**Shapes and units** Taps ``[B, C, h, w]``, resampled to the smaller grid per axis in frequency
space. Values lie between 0 and 4 / B (``batch``) or 0 and 4 (``image``). ``hidden`` of m is
max(1, C / reduction). A and P are trained with the student and never exported.

**Source** Attention-guided feature distillation (arXiv 2403.05451), AmirMansurian/AttnFD,
distiller.py and cbam.py at f090bbe: weight 2 over the last stage, the context module and the
decoder, with cross-entropy and no logit KL. Departures:

- The released teacher has a CBAM that no loss ever trains, so its weights are random. cbam.py also
  defines the form without parameters (``model='teacher'``), which nothing there uses. It is A0
  here. The loss is equal to the released ``Distiller`` with this form.
- P and A are trained from the first step to the last; the released P is trained in epoch 0 only.
- The teacher is in evaluation mode; there it is in training mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from freqkd_cli.features.adapter import Adapter
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._convolution import convolution, convolved
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.spectral.distances import ratio, root
from freqkd_cli.spectral.fourier import resample
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "features"


def build(
    *,
    student: str,
    teacher: str,
    reduction: Annotated[int, Field(ge=1, le=10**9)] = 16,
    norm: Literal["batch", "image"] = "batch",
    batch_norm: bool = True,
) -> Loss:
    """Build AttnFD between two taps.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        reduction: channels over the hidden units of the channel attention.
        norm: maps are divided by the norm of the batch, or each by its own.
        batch_norm: after the spatial attention's and the adapter's convolution.
    """
    return AttentionGuided(student, teacher, (reduction, norm == "image", batch_norm))


class AttentionGuided(PairLoss):
    """Made by :func:`build`. Its target is the refined map, ``map`` ``[B, C, h * w]``."""

    target_arguments = ("teacher",)

    def __init__(self, student: str, teacher: str, form: tuple[int, bool, bool]) -> None:
        super().__init__(student, teacher, adapted=False)
        self.reduction, self.per_image, self.normed = form
        self.divided_again = not self.per_image
        self.attention: LearnedAttention | None = None
        self.connector: Adapter | None = None
        self.norm: Scale | None = None

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        own, channels = student[self.student].channels, teacher[self.teacher].channels
        self.attention = LearnedAttention(own, max(1, own // self.reduction), self.normed)
        self.connector = Adapter(own, channels)
        self.norm = Scale(channels) if self.normed else None

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x = resample(teacher[self.teacher].detach(), self.grid(grids[self.student], batch))
        return {"map": plain_attention(x).flatten(2)}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        assert self.attention is not None and self.connector is not None, "start() comes first"
        with torch.autocast(x.device.type, enabled=False):
            x = resample(x, self.grid((x.shape[-2], x.shape[-1]), batch))
            x = self.connector(self.attention(x))
            rows = (x if self.norm is None else self.norm(x)).flatten(2)
            over = (1, 2) if self.per_image else (0, 1, 2)
            sides = (rows, self.fitted(target["map"], rows))
            units = [ratio(y, root(y.square().sum(over, keepdim=True))) for y in sides]
            return (units[0] - units[1]).square().sum() / len(rows)


class LearnedAttention(nn.Module):
    """CBAM's channel and spatial attention: ``[B, C, h, w]`` -> ``[B, C, h, w]``."""

    def __init__(self, channels: int, hidden: int, normed: bool) -> None:
        super().__init__()
        self.reduce, self.expand = convolution(channels, hidden), convolution(hidden, channels)
        self.spatial = convolution(2, 1, 7, bias=not normed)
        self.norm = Scale(1) if normed else None

    def forward(self, x: Tensor) -> Tensor:
        rows = [convolved(F.relu(convolved(y, self.reduce)), self.expand) for y in pooled_cells(x)]
        x = x * torch.sigmoid(rows[0] + rows[1])
        place = convolved(torch.cat(pooled_channels(x), dim=1), self.spatial)
        return x * torch.sigmoid(place if self.norm is None else self.norm(place))


class Scale(nn.Module):
    """Batch norm by the statistics of the batch, in the type of its input; it keeps no averages."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.batch_norm(x, None, None, weight, bias, training=True)


def plain_attention(x: Tensor) -> Tensor:
    """Return CBAM's attention without parameters, ``[B, C, h, w]`` -> ``[B, C, h, w]``."""
    x = x * torch.sigmoid(sum(pooled_cells(x)))
    return x * torch.sigmoid(sum(pooled_channels(x)))


def pooled_cells(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and max over cells, ``[B, C, 1, 1]`` each."""
    return x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)


def pooled_channels(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return max and mean over channels, ``[B, 1, h, w]`` each."""
    return x.amax(1, keepdim=True), x.mean(1, keepdim=True)
