"""Generate the teacher's whole map from the student's masked map: masked generative distillation.

**What** ``sum over channels and cells of (G(M * P S) - T)^2 / B``. M sets the share ``ratio`` of
the cells of each image to 0, all channels alike, and is drawn again in each step. G is a 3x3
convolution, ReLU and a 3x3 convolution. P is a 1x1 convolution with bias where the channels differ.

**Why** The student cannot copy a cell that it does not see. It has to compute features from which
the neighbors of a cell predict the teacher there.

**Shapes and units** Taps ``[B, C, h, w]``, resampled to the smaller grid per axis in frequency
space. The value is a sum over C h w numbers, so its weight is small: the reference has 2e-5, on
the last stage of the backbone. That is 168 times the mean square there (2048 channels, 64x64
cells). P and G are trained with the student and never exported.

**Source** Masked Generative Distillation (arXiv 2205.01529), yzd-v/MGD,
seg/mmseg/distillation/losses/mgd.py at 2c9da0b: ratio 0.75. Equal to that code on the same mask.
Its trainer adds a logit loss of weight 3 and temperature 4. Departures: unequal grids are matched;
the mask is a hash of seed, step and image, so a resumed run draws the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from freqkd_cli.features.keyed_noise import new_key
from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._convolution import Generation, shown_cells
from freqkd_cli.losses._pair import TeacherMapLoss
from freqkd_cli.spectral.fourier import resample
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "features"


def build(*, student: str, teacher: str, ratio: Annotated[float, Field(ge=0, lt=1)] = 0.75) -> Loss:
    """Build masked generative distillation between two taps.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        ratio: share of the student's cells that are set to 0.
    """
    return MaskedGeneration(student, teacher, ratio)


class MaskedGeneration(TeacherMapLoss):
    """Made by :func:`build`."""

    key: Tensor

    def __init__(self, student: str, teacher: str, ratio: float) -> None:
        super().__init__(student, teacher)
        self.ratio = ratio
        self.generation: Generation | None = None

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        channels = student[self.student].channels, teacher[self.teacher].channels
        self.generation = Generation(*channels)
        self.register_buffer("key", new_key())

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        assert self.generation is not None, "start() comes first"
        with torch.autocast(x.device.type, enabled=False):
            x = resample(x, self.grid((x.shape[-2], x.shape[-1]), batch))
            shown = shown_cells(self.key, batch, step, x, self.ratio)
            x = self.generation(x, shown).flatten(2)
            return (x - self.fitted(target["map"], x)).square().sum() / len(x)
