"""Compare the spectra of two taps, real and imaginary parts: SpectralKD.

**What** Mean square of the real and imaginary parts of ``rfft2(S - pool(T))`` with ``norm="ortho"``
over the half plane. ``pool`` averages neighboring channels of the teacher until their number is
that of the student.

**Why** It has no trained parameter. In each channel the student copies amplitude and phase of all
frequencies. By Parseval's theorem, that is a mean square in space but for one thing: the columns of
DC and Nyquist count twice as much as the other columns.

**Shapes and units** Taps ``[B, C, h, w]``, resampled to the smaller grid per axis in frequency
space; the student has at most the teacher's channels. The reference weights the mean over its
layers with 0.2 (DeiT) or 0.05 (Swin), beside 0.1 cross-entropy and 0.9 logit KL. A cache of targets
holds the teacher's whole map, so it serves students of any width.

**Source** SpectralKD (arXiv 2412.19055), thy960112/SpectralKD, losses.py at 968be0e. Equal to
``layer_fft_loss`` of that code; here one line of a recipe is one layer. Departure: unequal grids
are matched.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._pair import TeacherMapLoss
from freqkd_cli.spectral.fourier import half_spectrum, resample
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "frequency"


def build(*, student: str, teacher: str) -> Loss:
    """Build SpectralKD between two taps; the top of the file explains it.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
    """
    return SpectralKD(student, teacher)


class SpectralKD(TeacherMapLoss):
    """Made by :func:`build`."""

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        own, channels = student[self.student].channels, teacher[self.teacher].channels
        if own > channels:
            raise RecipeError(
                f"{self.student!r} has more channels than {self.teacher!r}",
                got=f"{own} channels",
                need=f"at most {channels}: the teacher's channels are averaged down to them",
                tip="use a wider tap of the teacher, or the loss band, which has an adapter",
                key="student",
            )

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        with torch.autocast(x.device.type, enabled=False):
            x = resample(x, self.grid((x.shape[-2], x.shape[-1]), batch))
            teacher = pooled_channels(target["map"].to(x.dtype), x.shape[1])
            teacher = self.fitted(teacher, x.flatten(2)).view_as(x)
            spectrum = torch.view_as_real(half_spectrum(x - teacher))
            return spectrum.square().mean() / (x.shape[-2] * x.shape[-1])


def pooled_channels(rows: Tensor, channels: int) -> Tensor:
    """Average neighboring channels, ``[B, C, n]`` -> ``[B, channels, n]``."""
    if rows.shape[1] == channels:
        return rows
    return F.adaptive_avg_pool2d(rows[:, None], (channels, rows.shape[2]))[:, 0]
