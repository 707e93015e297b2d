"""Learn which frequencies to compare: a frequency attention module on the student's tap.

**What** ``FAM(S) = gamma1 * local + gamma2 * global``. ``global`` multiplies the spectrum with one
learned complex weight per channel and frequency, and removes the band below ``cutoff``. ``local``
is a 1x1 convolution with bias. Both have the teacher's channels; batch norm and ReLU follow unless
``output: linear``. The loss is ``d(FAM(S), T)``.

**Why** In ``band`` the recipe sets which frequencies count; here they are learned.

**Shapes and units** Taps ``[B, C, h, w]``, compared on the smaller grid per axis. The filter is
stored on ``grid`` = (rows, columns) of the half plane, rows from -Nyquist to +Nyquist, columns from
DC to Nyquist. It is interpolated bilinearly at the bins of any size. ``cutoff`` is in Nyquist
units, 0 = no high-pass; the default is 0.1, and 0 for ``band: low``. The filter starts as 1
(``band: all``), or as a Gaussian low-pass of 0.25 Nyquist (``low``) or its complement (``high``).

**Source** FAM-KD, Frequency Attention for Knowledge Distillation (arXiv 2403.05894),
distillers/FAM_KD.py: gamma 0.5 each, cut-on 0.1, mean square. Departures:

- a depth-wise filter after the 1x1 convolution, real at the start; the dense one has 10^7 to 10^8
  weights at segmentation sizes and fixes the crop;
- ``band``: the released filter starts as random numbers;
- a radial high-pass; the released box is not symmetric about DC and does nothing under 20 cells;
- no cross-level attention;
- ``normalize: channel`` standardises both sides, ``none`` is the plain mean square.

``form: released`` is the module of that code at 121cc2b, without these departures: the dense filter
with a random start, the box as high-pass (``cutoff`` 0.1 is its cut-on), and ``grid`` the one grid
on which both taps are compared. With ``output: norm_relu`` and ``normalize: none`` it equals the
released loss of one level. What is left out, the cross-level attention, is the pipeline of ReviewKD
and not the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.adapter import Adapter
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._convolution import convolution, convolved
from freqkd_cli.losses._fam_released import ReleasedAttention
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.runtime.constants import constant
from freqkd_cli.spectral.distances import Distance, distance, standardised
from freqkd_cli.spectral.fourier import common_grid, from_half, half_spectrum, radial, resample
from freqkd_cli.spectral.masks import low_pass
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "frequency"

Side = Annotated[int, Field(ge=2, le=4096)]
Start = Literal["low", "high", "all"]
Form = Literal["coarse", "released"]

START_CUTOFF = 0.25
"""Nyquist units: the Gaussian that ``band: low`` starts as, the default cutoff of ``band``."""


def build(
    *,
    student: str,
    teacher: str,
    form: Form = "coarse",
    grid: tuple[Side, Side] = (17, 9),
    band: Start = "all",
    cutoff: Annotated[float, Field(ge=0, lt=1)] | None = None,
    distance: Literal["relative", "mse"] = "mse",
    normalize: Literal["channel", "none"] = "channel",
    output: Literal["norm_relu", "linear"] = "linear",
) -> Loss:
    """Build a frequency attention loss between two taps; the top of the file explains every key.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        form: coarse is this project's, released that of the authors' code.
        grid: rows and columns on which the filter is stored.
        band: what the filter starts as.
        cutoff: of the high-pass in Nyquist units, 0 = none; the default is 0.1, for band: low 0.
        distance: relative to the teacher's energy, or the plain mean square.
        normalize: channel standardises every channel of both sides.
        output: batch norm and ReLU after the module, or neither.
    """
    if cutoff is None:
        cutoff = 0.0 if band == "low" else 0.1
    shape = Shape((grid[0], grid[1]), cutoff, output, band, form)
    if form == "released" and band != "all":
        raise RecipeError(
            "the released filter starts as random numbers",
            got=f"band: {band}",
            need="band: all, or form: coarse",
            key="band",
        )
    return FamLoss(student, teacher, distance, normalize == "channel", shape)


@dataclass(frozen=True)
class Shape:
    """Grid of the module's filter, cutoff of its high-pass, what follows it, its start and form."""

    grid: Grid
    cutoff: float
    output: Literal["norm_relu", "linear"]
    band: Start = "all"
    form: Form = "coarse"

    def start(self) -> np.ndarray:
        """Return the filter's real part before training, ``[rows, columns]``."""
        rows, columns = np.linspace(-1.0, 1.0, self.grid[0]), np.linspace(0.0, 1.0, self.grid[1])
        low = low_pass(np.hypot(rows[:, None], columns), "gaussian", START_CUTOFF)
        return {"low": low, "high": 1.0 - low, "all": np.ones_like(low)}[self.band]


class FrequencyAttention(nn.Module):
    """Frequency attention: ``[B, Cs, h, w]`` -> ``[B, Ct, h, w]`` at any size."""

    def __init__(self, student: int, teacher: int, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.mix = Adapter(student, teacher)
        self.local = convolution(student, teacher)
        # Real and imaginary part apart, so optimizers and safetensors handle plain numbers.
        start = torch.zeros(2, teacher, *shape.grid)
        start[0] = torch.as_tensor(shape.start()).to(start)
        self.filter = nn.Parameter(start)
        self.gamma = nn.Parameter(torch.full((2,), 0.5))
        self.norm = nn.BatchNorm2d(teacher) if shape.output == "norm_relu" else None

    def forward(self, x: Tensor) -> Tensor:
        spectrum = half_spectrum(x)
        mixed = torch.view_as_complex(self.mix(torch.view_as_real(spectrum)))
        passed = from_half(mixed * self.gains(x.shape[-2], x.shape[-1], x), x.shape[-2:])
        y = self.gamma[0] * convolved(x, self.local) + self.gamma[1] * passed
        return y if self.norm is None else F.relu(self.norm(y))

    def gains(self, height: int, width: int, like: Tensor) -> Tensor:
        """Return the learned filter at the half-plane bins of a map, 0 up to the cutoff.

        Complex, ``[Ct, h, w // 2 + 1]``.
        """
        rows = torch.fft.fftfreq(height, dtype=like.dtype, device=like.device) * 2.0
        columns = torch.fft.rfftfreq(width, dtype=like.dtype, device=like.device) * 4.0 - 1.0
        # grid_sample takes (x, y) in [-1, 1]: x from DC to Nyquist, y from -Nyquist to +Nyquist.
        places = torch.stack(torch.broadcast_tensors(columns[None, :], rows[:, None]), dim=-1)
        real, imaginary = F.grid_sample(
            self.filter.to(like.dtype),
            places.expand(2, -1, -1, -1),
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        ).unbind(0)
        if self.shape.cutoff > 0:
            low = low_pass(radial(height, width), "ideal", self.shape.cutoff)
            keep = constant(1.0 - low, like.dtype, like.device)
            real, imaginary = real * keep, imaginary * keep
        return torch.complex(*_hermitian(real, imaginary, width))


def _hermitian(real: Tensor, imaginary: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Make columns that are their own mirror image conjugate-symmetric.

    The spectrum of a real kernel is so. Otherwise irfft2 would drop the other part silently.
    """
    own = torch.zeros(real.shape[-1], dtype=torch.bool, device=real.device)
    own[0] = True
    if width % 2 == 0:
        own[-1] = True

    def mirrored(x: Tensor) -> Tensor:
        return torch.roll(torch.flip(x, (-2,)), 1, dims=-2)

    even = torch.where(own, (real + mirrored(real)) / 2.0, real)
    return even, torch.where(own, (imaginary - mirrored(imaginary)) / 2.0, imaginary)


class FamLoss(PairLoss):
    """Made by :func:`build`. Its target is the teacher's map, ``map`` ``[B, C, h * w]``."""

    target_version = 2
    target_arguments = ("teacher", "normalize")

    def __init__(
        self, student: str, teacher: str, kind: Distance, standardise: bool, shape: Shape
    ) -> None:
        super().__init__(student, teacher, adapted=False)
        self.kind, self.standardise, self.shape = kind, standardise, shape
        self.module: FrequencyAttention | nn.Sequential | None = None

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        channels = student[self.student].channels, teacher[self.teacher].channels
        if self.shape.form == "coarse":
            self.module = FrequencyAttention(*channels, self.shape)
            return
        released = ReleasedAttention(*channels, self.shape.grid, self.shape.cutoff)
        after = [nn.BatchNorm2d(channels[1]), nn.ReLU()]
        self.module = nn.Sequential(released, *(after if self.shape.output == "norm_relu" else ()))

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        grid = common_grid(student[self.student], teacher[self.teacher])
        if self.shape.form == "released" and self.shape.grid != grid:
            raise RecipeError(
                "the released filter has the size of the maps that are compared",
                got=f"grid: {list(self.shape.grid)}",
                need=f"grid: {list(grid)}, the cells of both taps on these views",
                key="grid",
            )

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x = resample(teacher[self.teacher].detach(), self.grid(grids[self.student], batch))
        return {"map": (standardised(x) if self.standardise else x).flatten(2)}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        assert self.module is not None, "start() comes first"
        with torch.autocast(x.device.type, enabled=False):
            grid = self.grid((x.shape[-2], x.shape[-1]), batch)
            x = self.module(resample(x, grid)).flatten(2)
            x = standardised(x) if self.standardise else x
            return distance(self.kind, x, self.fitted(target["map"], x))
