"""Compare whole feature maps, standardised per channel: the plain baseline of ``band``.

**What** ``d(P S, T)`` on the common grid: ``relative`` = |A - B|^2 / ((1 + 1e-6) |B|^2) per sample, or ``mse``, the mean square; mean
over the batch. Per channel and sample both sides are (x - mean) / (biased standard deviation + 1e-6) unless ``normalize: none``.

**Why** The student copies what the teacher sees at every place, without a choice of frequencies. With the same taps, adapter,
standardisation and distance as ``band``, it says whether choosing a band gained anything.

**Shapes and units** taps ``[B, C, h, w]``; both sides come to the smaller grid per axis in frequency space, as in ``band``. Padded cells
take part on both sides alike.

**Source** Hints of FitNets (arXiv 1412.6550) with the standardisation of NFD (arXiv 2207.05256). Departures: the adapter is a single 1x1
convolution without bias; ``relative`` makes weights comparable over taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.losses._rows import Comparison, Weights
from freqkd_cli.losses._sides import Sides
from freqkd_cli.views.batch import Batch


def build(
    *,
    student: str,
    teacher: str,
    distance: Literal["relative", "mse"] = "relative",
    normalize: Literal["channel", "none"] = "channel",
    adapter: bool = True,
) -> Loss:
    """A plain feature loss between two taps; see the top of the file."""
    return FeatureLoss(
        (student, teacher), Sides(standardised=normalize == "channel"), distance, adapter
    )


class FeatureLoss(PairLoss):
    """Made by :func:`build`. The target is the teacher's map on the common grid, ``map`` ``[B, C, h * w]``."""

    target_arguments = ("teacher", "normalize")

    def __init__(
        self,
        taps: tuple[str, str],
        sides: Sides,
        distance: Literal["relative", "mse"],
        adapter: bool,
    ) -> None:
        super().__init__(*taps, adapted=adapter)
        self.sides, self.distance = sides, distance

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if not self.adapted:
            self.same_channels(student[self.student], teacher[self.teacher])

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x = teacher[self.teacher].detach()
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return {"map": self.sides.in_space(x, self.grid(grids[self.student], batch)).finished()}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        with torch.autocast(x.device.type, enabled=False):
            ours = self.sides.in_space(
                x, self.grid((x.shape[-2], x.shape[-1]), batch), self.adapter
            )
            compare = Comparison(self.distance, "both", Weights.of_cells(ours.rows))
            return compare(ours, self.fits(ours, target["map"]))
