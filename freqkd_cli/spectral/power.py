"""Radial spectra of feature maps: power and log amplitude per ring, shares around a cutoff.

rho = sqrt(fy^2 + fx^2) / 0.5 in Nyquist units of the map's own grid: 0 = DC, 1 = Nyquist along an
axis, up to sqrt(2) at the corners. A ring is one step of rho wide and holds the cells nearest to
its centre. DC is a ring of its own, kept apart, because a channel's mean level is no detail.
Transforms are float32 and orthonormal, so the sum of power equals the sum of squares (Parseval).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from freqkd_cli.errors import ShapeError
from freqkd_cli.spectral.fourier import multiplicity, radial

FINEST_RINGS = 64
"""No more rings than this between DC and Nyquist: finer ones would be noise to the eye."""


@lru_cache(maxsize=64)
def half_plane(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return radial frequency and multiplicity of the cells that ``rfft2`` keeps, as tensors.

    Returns:
        rho ``[h, w // 2 + 1]`` float64 in Nyquist units, and the number of cells of the full plane
        that each stands for (1 or 2), float64.
    """
    return torch.from_numpy(radial(height, width)), torch.from_numpy(multiplicity(height, width))


def ring_width(height: int, width: int) -> float:
    """Return the step of rho between rings, never finer than 1 / FINEST_RINGS.

    It is one bin of the shorter side, so no ring up to Nyquist is empty.

    Raises:
        ShapeError: a grid with a side of one cell has no frequency but DC along it.
    """
    shorter = min(height, width)
    if shorter < 2:
        raise ShapeError(
            "a map this small has no frequencies",
            got=f"{height} x {width} cells",
            need="at least 2 x 2 cells",
        )
    return max(2.0 / shorter, 1.0 / FINEST_RINGS)


@lru_cache(maxsize=64)
def rings_of(height: int, width: int, step: float) -> Tensor:
    """Return the ring number of every half-plane cell, ``[h, w // 2 + 1]`` int64.

    Only DC has number 0; a last ring of one cell, the corner, joins the one before.
    """
    rho, twice = half_plane(height, width)
    # 1e-9 puts cells that lie exactly between two rings on the same side on every machine.
    ring = torch.floor(rho / step + 0.5 + 1e-9).long().clamp(min=1)
    last = ring == ring.max()
    if twice[last].sum() == 1 and ring.max() > 1:
        ring[last] -= 1
    ring[0, 0] = 0
    return ring


@lru_cache(maxsize=64)
def log_weights(height: int, width: int, step: float) -> Tensor:
    """Return the weight of each half-plane cell in a mean of logarithms, ``[h, w // 2 + 1]``.

    The cells at exactly Nyquist along one axis, and at Nyquist or 0 along the other, are real
    numbers. The mean log of a real normal number is 0.35 below that of a complex one of equal
    power, so they would bend the line of white noise. They count only in a ring that has no other
    cells.
    """
    _, twice = half_plane(height, width)
    ring = rings_of(height, width, step)
    weights = twice.clone()
    rows = [0, height // 2] if height % 2 == 0 else [0]
    columns = [0, width // 2] if width % 2 == 0 else [0]
    for row in rows:
        for column in columns:
            if row or column:
                weights[row, column] = 0.0
    lost = _by_ring(weights, ring) == 0
    return torch.where(lost[ring], twice, weights)


@dataclass(frozen=True)
class RingSums:
    """Sums over the cells of each ring, over channels and images; two of the same step add up.

    Attributes:
        step: step of rho between rings.
        cells, power, rho: per ring, float64: number of (image, channel, cell), sum of |F|^2, sum of
            rho.
        log_cells, log_amplitude: the same for log |F|, over the maps that are not flat.
        low, high: energy at 0 < rho <= cutoff and above it, exact by cell and not by ring.
    """

    step: float
    cells: Tensor
    power: Tensor
    rho: Tensor
    log_cells: Tensor
    log_amplitude: Tensor
    low: float
    high: float

    def __add__(self, other: RingSums) -> RingSums:
        if abs(self.step - other.step) > 1e-12:
            raise ShapeError(
                "rings of different width do not add up",
                got=f"{other.step:.6g}",
                need=f"{self.step:.6g}",
            )
        names = ("cells", "power", "rho", "log_cells", "log_amplitude")
        sums = {name: _add(getattr(self, name), getattr(other, name)) for name in names}
        return RingSums(
            step=self.step, low=self.low + other.low, high=self.high + other.high, **sums
        )


def _add(a: Tensor, b: Tensor) -> Tensor:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    total = longer.clone()
    total[: len(shorter)] += shorter
    return total


def ring_sums(maps: Tensor, cutoff: float, step: float | None = None) -> RingSums:
    """Return the sums by ring of the power of maps.

    Args:
        maps: ``[B, C, h, w]`` of any float dtype; the transform runs in float32.
        cutoff: rho that separates low from high; it belongs to the low side.
        step: step of rho between rings; None is that of :func:`ring_width`.

    Raises:
        ShapeError: not a map ``[B, C, h, w]``, or one without frequencies.
    """
    if maps.ndim != 4:
        raise ShapeError(
            "a power spectrum needs a map",
            got=f"a tensor of shape {tuple(maps.shape)}",
            need="[B, C, h, w]",
        )
    height, width = maps.shape[-2:]
    step = ring_width(height, width) if step is None else step
    with torch.autocast(maps.device.type, enabled=False):
        power = torch.fft.rfft2(maps.float(), norm="ortho").abs().square().cpu().double()
    rho, twice = half_plane(height, width)
    ring = rings_of(height, width, step)

    varying = _varying(power)
    power = torch.where(varying | (ring == 0), power, 0.0)
    amount = float(maps.shape[0] * maps.shape[1]) * twice
    logs = torch.where(varying, 0.5 * torch.log(power + _floor(power)), 0.0).sum((0, 1))
    low_side = (rho <= cutoff + 1e-9) & (ring > 0)
    weighted = power.sum((0, 1)) * twice
    weights = log_weights(height, width, step)
    return RingSums(
        step=step,
        cells=_by_ring(amount, ring),
        power=_by_ring(weighted, ring),
        rho=_by_ring(rho * amount, ring),
        log_cells=_by_ring(varying.sum().double() * weights, ring),
        log_amplitude=_by_ring(logs * weights, ring),
        low=float(weighted[low_side].sum()),
        high=float(weighted[~low_side & (ring > 0)].sum()),
    )


def _varying(power: Tensor) -> Tensor:
    """Return which maps are not flat, ``[B, C, 1, 1]``.

    Less than 1e-12 of a map's energy is rounding of float32.
    """
    everything = power.sum((-2, -1), keepdim=True)
    return everything - power[..., :1, :1] > 1e-12 * everything


def _floor(power: Tensor) -> Tensor:
    """Return the power that stands for zero, so that log exists.

    It is 120 dB below each map's mean power, below the resolution of float32.
    """
    return power.mean((-2, -1), keepdim=True) * 1e-12 + 1e-300


def _by_ring(values: Tensor, ring: Tensor) -> Tensor:
    return torch.bincount(ring.flatten(), weights=values.flatten(), minlength=int(ring.max()) + 1)


@dataclass(frozen=True)
class RadialSpectrum:
    """The radial spectrum of one tap, DC apart.

    Attributes:
        rho: mean radial frequency of each ring that has cells, in Nyquist units of the tap's grid.
        cells: cells of the Fourier plane in each ring, summed over images and channels.
        power: mean |F|^2 per ring over cells, channels and images.
        relative_log_amplitude: mean log |F| of the ring minus that of the lowest ring (natural
            logarithm).
        low_energy, high_energy: shares of the energy without DC at rho <= cutoff and above; None
            where every map is flat.
        dc_power: mean |F(0)|^2 over channels and images.
        dc_relative_log_amplitude: mean log |F(0)| minus that of the lowest ring.
    """

    rho: list[float]
    cells: list[float]
    power: list[float]
    relative_log_amplitude: list[float]
    low_energy: float | None
    high_energy: float | None
    dc_power: float
    dc_relative_log_amplitude: float


def radial_spectrum(sums: RingSums) -> RadialSpectrum:
    """Return means from sums.

    Relative log amplitude: Park and Kim, "How Do Vision Transformers Work?" (ICLR 2022), section 2
    and figure 2. Departures: the mean of a ring in place of the diagonal of the plane; the lowest
    ring in place of DC as the reference, since DC is a channel's mean level. Subtract
    ``dc_relative_log_amplitude`` for values relative to DC.
    """
    filled = (sums.cells > 0) & (torch.arange(len(sums.cells)) > 0)
    log_mean = sums.log_amplitude / sums.log_cells.clamp(min=1.0)
    lowest = log_mean[filled][0]
    energy = sums.low + sums.high
    return RadialSpectrum(
        rho=(sums.rho / sums.cells.clamp(min=1.0))[filled].tolist(),
        cells=sums.cells[filled].tolist(),
        power=(sums.power / sums.cells.clamp(min=1.0))[filled].tolist(),
        relative_log_amplitude=(log_mean - lowest)[filled].tolist(),
        low_energy=sums.low / energy if energy > 0 else None,
        high_energy=sums.high / energy if energy > 0 else None,
        dc_power=float(sums.power[0] / sums.cells[0].clamp(min=1.0)),
        dc_relative_log_amplitude=float(log_mean[0] - lowest),
    )
