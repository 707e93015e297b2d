"""Compare whole feature maps, standardised per channel: the plain baseline of ``band``.

**What** ``d(P S, T)`` on the common grid, mean over the batch. ``relative`` is
``|A - B|^2 / ((1 + 1e-6) |B|^2)`` per sample, ``mse`` the mean square. Unless ``normalize: none``,
both sides are (x - mean) / max(s_c, 0.1 r) per channel and sample. s_c is the biased standard
deviation of the channel, r the root mean square of all s_c. A constant map counts as 0. With
``attention: low``, ``high`` or ``mix`` the squares of each cell have the weight
``w = (1 + strength a / mean a) / (1 + strength)``, ``a = sqrt(mean over channels of (F T)^2)`` with
the filter F of that band. ``relative`` weights its denominator alike, so a student of zeros has the
value 1 with and without attention.

**Why** The student copies what the teacher computes at every place, in all frequencies. It has the
taps, adapter, standardisation and distance of ``band``, so it shows what the choice of a band adds.
Attention copies all frequencies, but where the teacher has most of one band: low on an encoder
(large regions), high on a decoder (edges).

**Shapes and units** Taps ``[B, C, h, w]``. Both sides are resampled to the smaller grid per axis in
frequency space, as in ``band``. Padded cells take part on both sides alike, with the weight 1.
``cutoff`` of the radial ``mask`` is in Nyquist units of that grid. With attention a cache of
targets also holds ``a / mean a`` ``[B, h, w]``, which serves any ``strength``.

**Source** Hints of FitNets (arXiv 1412.6550) with the standardisation of NFD (arXiv 2207.05256).
Departures: the adapter is a single 1x1 convolution without bias; ``relative`` makes weights
comparable over taps. Frequency attention is this project's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.features.adapter import adapted
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._emphasis import Emphasis
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.distances import distance, standardised
from freqkd_cli.spectral.fourier import common_grid, resample
from freqkd_cli.spectral.frequency_attention import weighted_distance
from freqkd_cli.spectral.masks import BandCells
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "features"


@flattened
def build(
    *,
    student: str,
    teacher: str,
    distance: Literal["relative", "mse"] = "relative",
    normalize: Literal["channel", "none"] = "channel",
    adapter: bool = True,
    emphasis: Emphasis,
) -> Loss:
    """Build a feature loss between two taps; the top of the file explains every key.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        distance: relative to the teacher's energy, or the plain mean square.
        normalize: channel standardises every channel of both sides.
        adapter: bring the student to the teacher's channels by a trained 1x1 convolution.
    """
    compared = Compared(distance, normalize == "channel", adapter, emphasis)
    return FeatureLoss(student, teacher, compared)


@dataclass(frozen=True)
class Compared:
    """How the maps are compared; every field is a key of the recipe."""

    distance: Literal["relative", "mse"]
    standardise: bool
    adapter: bool
    emphasis: Emphasis


class FeatureLoss(PairLoss):
    """Made by :func:`build`.

    Its target is the teacher's map, ``map`` ``[B, C, h * w]``, and with attention ``emphasis``
    ``[B, h, w]``, of mean 1 over inside cells.
    """

    target_version = 2

    def __init__(self, student: str, teacher: str, compared: Compared) -> None:
        super().__init__(student, teacher, adapted=compared.adapter)
        self.compared = compared
        self.target_arguments = ("teacher", "normalize", *compared.emphasis.target_arguments)

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if not self.adapted:
            self.require_same_channels(student[self.student], teacher[self.teacher])

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        grid = common_grid(student[self.student], teacher[self.teacher])
        self.compared.emphasis.check(grid, f"the teacher's {self.teacher!r}")

    def band_cells(
        self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]
    ) -> tuple[BandCells, ...]:
        grid = common_grid(student[self.student], teacher[self.teacher])
        return self.compared.emphasis.cells(grid, f"the teacher's {self.teacher!r}")

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x = resample(teacher[self.teacher].detach(), self.grid(grids[self.student], batch))
        x = standardised(x) if self.compared.standardise else x
        emphasis = self.compared.emphasis
        more = {"emphasis": emphasis.relative(x, batch)} if emphasis.used else {}
        return {"map": x.flatten(2), **more}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x, kind, emphasis = student[self.student], self.compared.distance, self.compared.emphasis
        with torch.autocast(x.device.type, enabled=False):
            x = resample(x, self.grid((x.shape[-2], x.shape[-1]), batch))
            x = adapted(x.flatten(2), self.adapter)
            x = standardised(x) if self.compared.standardise else x
            teacher = self.fitted(target["map"], x)
            if not emphasis.used:
                return distance(kind, x, teacher)
            weights = emphasis.weights(target["emphasis"], x.dtype).flatten(1)
            return weighted_distance(kind, x, teacher, weights)
