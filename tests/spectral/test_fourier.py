"""Fourier arithmetic against numpy and scipy: transform, gradient, grids, masks, empty bands."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch

from freqkd_cli.errors import BandError
from freqkd_cli.spectral.fourier import (
    as_rows,
    common_grid,
    from_half,
    from_rows,
    half_spectrum,
    hann,
    mirrored,
    mirrored_size,
    multiplicity,
    radial,
    refit,
    resample,
)
from freqkd_cli.spectral.masks import check_band, effective_cells, low_pass, usable_cutoffs

SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (4, 6), (5, 6), (6, 5), (7, 9), (12, 15)]


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("size", SIZES)
def test_energy_is_preserved_and_the_map_comes_back(size):
    x = maps(2, 3, *size)
    spectrum = half_spectrum(x)
    count = torch.from_numpy(multiplicity(*size))
    assert count.sum() == size[0] * size[1]
    torch.testing.assert_close(
        (spectrum.abs().square() * count).sum((-2, -1)) / count.sum(), x.square().sum((-2, -1))
    )
    torch.testing.assert_close(from_half(spectrum, size), x)
    torch.testing.assert_close(from_rows(as_rows(spectrum), size), spectrum)


@pytest.mark.parametrize("size", SIZES)
def test_radial_frequencies_are_those_of_the_full_plane(size):
    full = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None, :]) / 0.5
    np.testing.assert_allclose(radial(*size), full[:, : size[1] // 2 + 1], atol=1e-15)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("centred", [False, True])
def test_gradient_of_the_transform(size, centred):
    x = maps(2, *size).requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda x: half_spectrum(x, centred=centred) * (1.0 + 0.5j), (x,)
    )
    weight = torch.from_numpy(radial(*size))
    gradient = torch.autograd.grad(
        (weight * half_spectrum(x, centred=centred).abs().square()).sum(), x
    )[0]
    known = torch.autograd.grad((weight * torch.fft.rfft2(x).abs().square()).sum(), x)[0]
    torch.testing.assert_close(gradient, known)


def test_centred_is_the_spectrum_of_the_map_without_its_mean():
    x = maps(2, 3, 5, 6) + 4.0
    torch.testing.assert_close(
        half_spectrum(x, centred=True),
        half_spectrum(x - x.mean((-2, -1), keepdim=True)),
        atol=1e-12,
        rtol=0,
    )


@pytest.mark.parametrize("size", [(1, 1), (40, 31), (7, 481), (96, 120)], ids=str)
def test_the_layout_of_memory_changes_no_bit(size):
    x = torch.randn(2, 3, *size)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(half_spectrum(last), half_spectrum(x)) and torch.equal(
        half_spectrum(last.bfloat16()), half_spectrum(x.bfloat16())
    )
    gradients = []
    for leaf in (x.requires_grad_(True), last.requires_grad_(True)):
        half_spectrum(leaf).abs().square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    assert gradients[1].is_contiguous(memory_format=torch.channels_last)


def test_half_floats_are_widened_and_doubles_kept():
    assert half_spectrum(maps(4, 4).bfloat16()).dtype == torch.complex64
    assert half_spectrum(maps(4, 4)).dtype == torch.complex128


@pytest.mark.parametrize("before", [(1, 1), (2, 3), (4, 4), (5, 6), (6, 7), (9, 8), (12, 15)])
@pytest.mark.parametrize(
    "after", [(1, 1), (2, 2), (3, 4), (4, 5), (6, 6), (7, 8), (12, 10), (15, 20)]
)
def test_resample_is_scipy_s_along_both_axes(before, after):
    x = maps(2, *before)
    known = scipy.signal.resample(
        scipy.signal.resample(x.numpy(), after[0], axis=-2), after[1], axis=-1
    )
    np.testing.assert_allclose(resample(x, after).numpy(), known, atol=1e-12)
    np.testing.assert_allclose(resample(x, after).mean((-2, -1)), x.mean((-2, -1)), atol=1e-12)
    np.testing.assert_allclose(
        refit(half_spectrum(x), before[1], after).numpy(), np.fft.rfft2(known), atol=1e-10
    )


@pytest.mark.parametrize(
    ("before", "after"), [((6, 8), (4, 6)), ((5, 7), (4, 4)), ((4, 4), (6, 8)), ((6, 6), (6, 3))]
)
def test_gradient_of_resample(before, after):
    assert torch.autograd.gradcheck(
        lambda x: resample(x, after), (maps(1, *before).requires_grad_(True),)
    )


def test_common_grid_is_the_smaller_per_axis():
    assert common_grid((12, 20), (15, 10)) == (12, 10)


def test_a_cosine_lands_in_its_bin():
    y, x = np.mgrid[:12, :16]
    wave = torch.from_numpy(np.cos(2 * np.pi * (3 * y / 12 + 2 * x / 16)))
    power = half_spectrum(wave).abs().square().numpy()
    assert np.isclose(power[3, 2], (12 * 16) ** 2 / 4)
    assert np.isclose((power * multiplicity(12, 16)).sum(), (12 * 16) ** 2 / 2)
    assert np.isclose(radial(12, 16)[3, 2], math.hypot(3 / 12, 2 / 16) * 2)


def test_the_mirrored_map_is_a_period_without_a_seam():
    x = maps(1, 1, 4, 5)
    y = mirrored(x)
    assert tuple(y.shape[-2:]) == mirrored_size((4, 5)) == (6, 8)
    np.testing.assert_array_equal(
        y[0, 0].numpy(), np.pad(x[0, 0].numpy(), ((0, 2), (0, 3)), mode="reflect")
    )
    again = torch.roll(torch.flip(y, (-2, -1)), (1, 1), (-2, -1))
    torch.testing.assert_close(again, y)  # even about the first cell, so also across the border
    for size in [(1, 1), (2, 1), (2, 2), (1, 3)]:
        assert tuple(mirrored(maps(1, 1, *size)).shape[-2:]) == mirrored_size(size)


def test_hann_is_scipy_s_window_between_its_zeros():
    along = scipy.signal.get_window("hann", 14, fftbins=True)[1::2]
    np.testing.assert_allclose(hann(7, 1)[:, 0], along, atol=1e-15)
    assert hann(1, 1) == 1.0


@pytest.mark.parametrize("order", [1, 2, 4])
def test_masks_known_values(order):
    assert low_pass(np.array(0.0), "gaussian", 0.25) == 1.0
    assert np.isclose(low_pass(np.array(0.25), "gaussian", 0.25), math.exp(-0.5))
    assert np.isclose(low_pass(np.array(0.25), "butterworth", 0.25, order), 0.5)
    assert np.isclose(
        low_pass(np.array(0.5), "butterworth", 0.25, order), 1 / (1 + 2.0 ** (2 * order))
    )
    assert low_pass(np.array([0.25, 0.2500001]), "ideal", 0.25).tolist() == [1.0, 0.0]
    assert low_pass(np.array(1.0), "butterworth", 1e-300, 4) == 0.0


def test_share_of_white_noise_that_the_default_mask_keeps():
    # Known answer from the continuous integral: pi c^2 / 4 of the plane, rho = 1 at Nyquist.
    count = multiplicity(256, 256)
    share = (low_pass(radial(256, 256), "gaussian", 0.25) ** 2 * count).sum() / count.sum()
    assert np.isclose(share, math.pi * 0.25**2 / 4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["ideal", "gaussian", "butterworth"])
@pytest.mark.parametrize("grid", [(2, 2), (2, 3), (6, 8), (11, 15), (45, 60)])
def test_usable_cutoffs_are_usable_and_those_beyond_are_not(kind, grid):
    usable = usable_cutoffs(grid, kind)
    assert usable is not None
    for cutoff in usable:
        check_band(grid, kind, cutoff, 2, "a tap")
    for beyond in (usable[0] - 0.0011, usable[1] + 0.0011):
        if beyond > 0:
            with pytest.raises(BandError, match="a tap") as error:
                check_band(grid, kind, beyond, 2, "a tap")
            assert f"{usable[0]:.3f} to {usable[1]:.3f}" in str(error.value)


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 1)])
def test_grids_without_a_usable_cutoff_say_so(grid):
    with pytest.raises(BandError, match="no cutoff works"):
        check_band(grid, "ideal", 0.25, 2, "a tap")


def test_effective_cells_add_up():
    for kind in ("ideal", "gaussian", "butterworth"):
        low, high = effective_cells((11, 14), kind, 0.4)
        assert np.isclose(low + high, 11 * 14 - 1)
    full = np.hypot(np.fft.fftfreq(11)[:, None], np.fft.fftfreq(14)) / 0.5
    assert effective_cells((11, 14), "ideal", 0.4)[0] == (full <= 0.4).sum() - 1
