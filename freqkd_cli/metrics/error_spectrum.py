"""Energy of the error map by spatial frequency.

**What** The error map e is 1 where a labelled pixel is wrong, else 0. With F the orthonormal
Fourier transform of the whole image, the energy of a band is the sum of |F e|^2 over its
frequencies, summed over the images and divided by the number of labelled pixels. By Parseval, the
numbers add up to the share of wrong pixels. Large wrong areas have their energy at low frequencies,
thin seams and specks at high ones.

**Why** A loss for one band claims to remove errors of its scale.

**Unit** share of the labelled pixels; rho in Nyquist units of the label image: rho = 1 is a period
of 2 pixels, 1/16 one of 32 pixels. rho = 0 is the mean of the error map. The bands are octaves.

**Source** definitions of ``freqkd spectrum``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from freqkd_cli.metrics._label_maps import checked_maps, each_image
from freqkd_cli.metrics._metric import Counts, Metric, Number
from freqkd_cli.spectral.fourier import multiplicity, radial

EDGES = (16, 8, 4, 2)
"""Upper edges of the bands are 1 over these; the last band reaches up to the corners, sqrt(2)."""
NUMBERS = {
    "error_energy_0": Number("error energy, rho = 0", best=0.0),
    **{f"error_energy_to_1_{n}": Number(f"error energy, rho up to 1/{n}", best=0.0) for n in EDGES},
    "error_energy_above_1_2": Number("error energy, rho above 1/2", best=0.0),
}
PER_CLASS: dict[str, Number] = {}
CHEAP = False
ON_REQUEST = True

UNIT = 2**-20
"""Energies are counted in this share of a pixel, so that sums are exact in any order."""


def build(*, classes: int) -> Metric:
    return ErrorSpectrum(ErrorEnergy(classes))


class ErrorEnergy(Counts):
    """Energies of error maps.

    Attributes:
        table: int64 ``[1 + B]``: labelled pixels, then the energy of each band in :data:`UNIT`.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(1 + len(NUMBERS))
        self.classes = classes

    def add(self, prediction: Tensor, labels: Tensor) -> None:
        for known, truth, guess in each_image(*checked_maps(prediction, labels, self.classes)):
            energy = band_energies(known & (truth != guess))
            self.table[0] += known.sum()
            self.table[1:] += torch.from_numpy(np.rint(energy / UNIT).astype(np.int64))


def band_energies(wrong: Tensor) -> np.ndarray:
    """The energy of a map of flags ``[H, W]`` in each band, float64 ``[B]``, in pixels."""
    spectrum = torch.fft.rfft2(wrong.float(), norm="ortho")
    power = torch.view_as_real(spectrum).square().sum(-1).numpy()
    bands, twice = _bands(*wrong.shape)
    return np.bincount(bands.ravel(), (power * twice).ravel(), minlength=len(NUMBERS))


@lru_cache(maxsize=2)  # the images of a split mostly have one size
def _bands(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The band of every half-plane bin, and how many bins of the full plane it stands for."""
    rho = radial(height, width)
    bands = 1 + np.searchsorted([1 / n for n in EDGES], rho - 1e-9)
    bands[0, 0] = 0
    return bands.astype(np.uint8), multiplicity(height, width).astype(np.float32)


class ErrorSpectrum(Metric):
    """The energy of every band over the number of labelled pixels."""

    def values(self) -> dict[str, float | None]:
        pixels, *energies = self.table.tolist()
        return {
            name: energy * UNIT / pixels if pixels else None
            for name, energy in zip(NUMBERS, energies, strict=True)
        }
