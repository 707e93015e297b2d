"""The Haar transform equals PyWavelets, on even and odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch

from freqkd_cli.spectral.haar import haar, haar_levels


@pytest.mark.parametrize("size", [(8, 12), (7, 5), (1, 1), (1, 6), (13, 20)])
def test_one_level_equals_pywavelets(size):
    x = np.random.default_rng(0).standard_normal((2, 3, *size))
    low, details = haar(torch.from_numpy(x))
    known_low, known_details = pywt.dwt2(x, "haar", mode="zero", axes=(-2, -1))
    np.testing.assert_allclose(low, known_low, atol=1e-12)
    np.testing.assert_allclose(details, np.stack(known_details, axis=-3), atol=1e-12)


@pytest.mark.parametrize("size", [(16, 24), (11, 14)])
def test_three_levels_equal_pywavelets(size):
    x = np.random.default_rng(0).standard_normal((2, 3, *size))
    low, details = haar_levels(torch.from_numpy(x), 3)
    known_low, *coarse_first = pywt.wavedec2(x, "haar", mode="zero", level=3, axes=(-2, -1))
    np.testing.assert_allclose(low, known_low, atol=1e-12)
    for level, known in zip(details, reversed(coarse_first), strict=True):
        np.testing.assert_allclose(level, np.stack(known, axis=-3), atol=1e-12)


def test_the_transform_keeps_the_energy_of_even_sizes():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((16, 24)))
    low, details = haar_levels(x, 3)
    energy = low.square().sum() + sum(level.square().sum() for level in details)
    assert energy.item() == pytest.approx(x.square().sum().item(), rel=1e-12)
