"""Known answers of the weights that emphasise one frequency band."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freqkd_cli.spectral.frequency_attention import (
    attention_weights,
    band_strength,
    relative_strength,
)


@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_a_cosine_has_the_gain_of_its_frequency(size):
    height, width = size
    phase = 2 * np.pi * 2 * np.arange(width) / width  # two periods along a row
    wave = torch.from_numpy(np.cos(phase)).expand(1, 1, height, width)
    low = np.exp(-((2 / width / 0.5 / 0.4) ** 2) / 2)
    for high_share in (0.0, 0.25, 1.0):
        gain = (1 - high_share) * low + high_share * (1 - low)
        strength = band_strength(wave, high_share, 0.4)
        torch.testing.assert_close(strength, gain * wave[:, 0].abs())


def test_channels_are_joined_by_their_norm():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 6, 8)))
    one, scaled = (
        band_strength(x, 1.0, 0.3),
        band_strength(torch.cat([3 * x, 4 * x], 1), 1.0, 0.3),
    )
    torch.testing.assert_close(scaled, 5 * one)


def test_weights_have_mean_1_over_valid_cells_and_are_1_on_a_constant_map():
    strength = torch.tensor([[[1.0, 3.0, 100.0]], [[0.0, 0.0, 0.0]]])
    valid = torch.tensor([[[1, 1, 0]], [[1, 1, 1]]])
    relative = relative_strength(strength, valid, torch.full((2, 1, 1), 1e-6))
    assert relative[0, 0].tolist() == [0.5, 1.5, 50.0] and relative[1].eq(1).all()
    weights = attention_weights(relative, 4.0)
    torch.testing.assert_close(weights[0, 0, :2], torch.tensor([0.6, 1.4]))
    assert weights[1].eq(1).all() and attention_weights(relative, 0.0).eq(1).all()
