"""Channels and maps without variance: no large gradient, no signal made of rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freqkd_cli import registry
from freqkd_cli.features.taps import Tap
from freqkd_cli.spectral.distances import standardised
from freqkd_cli.views.batch import Batch

LINES = [
    ("feature", {}),
    ("feature", {"distance": "mse"}),
    ("band", {"band": "low", "cutoff": 0.5}),
    ("band", {"band": "high", "cutoff": 0.5}),
    ("band", {"band": "mix", "cutoff": 0.5, "filter_side": "teacher"}),
    ("band", {"band": "high", "cutoff": 0.5, "filter_side": "student", "distance": "log_mse"}),
    ("band", {"band": "high", "cutoff": 0.5, "represent": "attention"}),
    ("band", {"band": "high", "cutoff": 0.5, "represent": "attention_then_filter"}),
]


def maps(seed: int, channels: int = 8) -> torch.Tensor:
    values = np.random.default_rng(seed).standard_normal((2, channels, 12, 16))
    return torch.from_numpy(values).float()


def outcome(name, arguments, student, teacher) -> tuple[float, torch.Tensor]:
    """The value, and its gradient on the student's map."""
    loss = registry.find("losses", name).build(student="s", teacher="t", **arguments)
    channels = student.shape[1]
    loss.start({"s": Tap("s", 8, channels)}, {"t": Tap("t", 8, channels)}, 5)
    if loss.adapter is not None:
        torch.nn.init.eye_(loss.adapter.weight)
    image, number = (96, 128), torch.arange(2)
    valid = torch.ones(2, *image, dtype=torch.bool)
    batch = Batch(torch.zeros(2, 3, *image), None, valid, number, number)
    student = student.clone().requires_grad_(True)
    result = loss({"s": student}, loss.target({"t": teacher}, batch, {"s": (12, 16)}), batch, 0)
    result.backward()
    return float(result.detach()), student.grad


def test_the_floor_is_a_tenth_of_the_root_mean_square_deviation():
    x = maps(0).double() * torch.tensor([1, 2, 0.5, 1, 1, 1e-2, 1e-5, 0])[:, None, None] + 4.0
    deviation = x.numpy().std((2, 3))
    floor = 0.1 * np.sqrt((deviation**2).mean(1, keepdims=True))
    known = x.numpy() - x.numpy().mean((2, 3), keepdims=True)
    known /= np.maximum(deviation, floor)[..., None, None]
    np.testing.assert_allclose(standardised(x).numpy(), known, atol=1e-12)


@pytest.mark.parametrize(("name", "arguments"), LINES)
@pytest.mark.parametrize("dead", [0.0, 3.7])
def test_a_dead_channel_of_the_student_has_no_large_gradient(name, arguments, dead):
    """Its gradient was 4 million times that of the others."""
    student, teacher = maps(0), maps(1)
    student[:, 2] = dead
    _, gradient = outcome(name, arguments, student, teacher)
    of_channel = gradient.square().mean((0, 2, 3)).sqrt()
    others = of_channel[[0, 1, 3, 4, 5, 6, 7]].mean()
    assert torch.isfinite(gradient).all() and of_channel[2] < 20 * others


@pytest.mark.parametrize(("name", "arguments"), LINES)
@pytest.mark.parametrize("level", [3.7, -250.3])
def test_a_constant_channel_counts_as_zeros(name, arguments, level):
    """Rounding of such channels changed the feature loss by 7 %."""
    student, teacher = maps(0), maps(1)
    student[:, 4:], teacher[:, 4:] = 0.0, 0.0
    known, _ = outcome(name, arguments, student, teacher)
    student[:, 4:], teacher[:, 4:] = level, level / 3
    assert outcome(name, arguments, student, teacher)[0] == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize(("name", "arguments"), LINES)
@pytest.mark.parametrize("level", [0.0, 3.7, -250.3])
def test_constant_maps_are_no_signal(name, arguments, level):
    live = maps(0)
    flat = torch.full_like(live, level) + torch.arange(8.0)[:, None, None] * 0.7 * bool(level)
    both, gradient = outcome(name, arguments, flat, flat)
    assert both == pytest.approx(0.0, abs=1e-6) and torch.isfinite(gradient).all()
    value, gradient = outcome(name, arguments, live, flat)
    assert 0 <= value < 3 and gradient.abs().max() < 1
    value, gradient = outcome(name, arguments, flat, live)
    assert 0 <= value < 10 and gradient.abs().max() < 1
