"""Compare whole feature maps, standardised per channel: the plain baseline of ``band``.

**What** ``d(P S, T)`` on the common grid, mean over the batch. ``relative`` is
``|A - B|^2 / ((1 + 1e-6) |B|^2)`` per sample, ``mse`` the mean square. Unless ``normalize: none``,
both sides are (x - mean) / max(s_c, 0.1 r) per channel and sample. s_c is the biased standard
deviation of the channel, r the root mean square of all s_c. A constant map counts as 0.

**Why** The student copies what the teacher computes at every place, in all frequencies. It has the
taps, adapter, standardisation and distance of ``band``, so it shows what the choice of a band adds.

**Shapes and units** Taps ``[B, C, h, w]``. Both sides are resampled to the smaller grid per axis in
frequency space, as in ``band``. Padded cells take part on both sides alike.

**Source** Hints of FitNets (arXiv 1412.6550) with the standardisation of NFD (arXiv 2207.05256).
Departures: the adapter is a single 1x1 convolution without bias; ``relative`` makes weights
comparable over taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.features.adapter import adapted
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.spectral.distances import distance, standardised
from freqkd_cli.spectral.fourier import resample
from freqkd_cli.views.batch import Batch


def build(
    *,
    student: str,
    teacher: str,
    distance: Literal["relative", "mse"] = "relative",
    normalize: Literal["channel", "none"] = "channel",
    adapter: bool = True,
) -> Loss:
    """Build a feature loss between two taps; the top of the file explains every key."""
    return FeatureLoss(student, teacher, distance, normalize == "channel", adapter)


class FeatureLoss(PairLoss):
    """Made by :func:`build`. Its target is the teacher's map, ``map`` ``[B, C, h * w]``."""

    target_version = 2
    target_arguments = ("teacher", "normalize")

    def __init__(
        self, student: str, teacher: str, kind: str, standardise: bool, adapter: bool
    ) -> None:
        super().__init__(student, teacher, adapted=adapter)
        self.kind, self.standardise = kind, standardise

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if not self.adapted:
            self.require_same_channels(student[self.student], teacher[self.teacher])

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x = resample(teacher[self.teacher].detach(), self.grid(grids[self.student], batch))
        return {"map": (standardised(x) if self.standardise else x).flatten(2)}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        with torch.autocast(x.device.type, enabled=False):
            x = resample(x, self.grid((x.shape[-2], x.shape[-1]), batch))
            x = adapted(x.flatten(2), self.adapter)
            x = standardised(x) if self.standardise else x
            return distance(self.kind, x, self.fitted(target["map"], x))
