"""Each filter side of the band loss reaches 0, and all sides have gradients of one size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from freqkd_cli import registry
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch

SIDES = ("both", "teacher", "student")
MASKS = ("ideal", "gaussian", "butterworth")
GAINS = [("low", "loss"), ("high", "loss"), ("mix", "signal")]
IMAGE = (192, 256)


def band_loss(channels=(4, 4), **arguments):
    loss = registry.find("losses", "band").build(student="s", teacher="t", **arguments)
    loss.start({"s": Tap("s", 16, channels[0])}, {"t": Tap("t", 16, channels[1])}, 5)
    return loss


def value(loss, student, teacher) -> torch.Tensor:
    number = torch.arange(len(student))
    valid = torch.ones(len(student), *IMAGE, dtype=torch.bool)
    batch = Batch(torch.zeros(len(student), 3, *IMAGE), None, valid, number, number)
    loss.stride, grid = 16, tuple(student.shape[-2:])
    loss.teacher_tap = Tap("t", IMAGE[0] // grid[0], teacher.shape[1])
    target = loss.target({"t": teacher}, batch, {"s": grid})
    return loss({"s": student}, target, batch, 0)


def gradient(loss, student, teacher) -> torch.Tensor:
    student = student.clone().requires_grad_(True)
    return torch.autograd.grad(value(loss, student, teacher), student)[0]


def rho(size) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])) / 0.5


def gain_of(size, band, mask, cutoff, high_share=0.3) -> torch.Tensor:
    r = rho(size)
    low = {
        "ideal": (r <= cutoff + 1e-9) * 1.0,
        "gaussian": np.exp(-((r / cutoff) ** 2) / 2),
        "butterworth": 1 / (1 + (r / cutoff) ** 4),
    }[mask]
    shares = {"low": (1.0, 0.0), "high": (0.0, 1.0), "mix": (1 - high_share, high_share)}[band]
    return torch.from_numpy(shares[0] * low + shares[1] * (1 - low))


def filtered(x, gain) -> torch.Tensor:
    return torch.fft.ifft2(torch.fft.fft2(x) * gain).real


def noise(size, power, seed=0, channels=4, number=2) -> torch.Tensor:
    """Random maps; ``power`` 0 is white, 1 has amplitudes that fall as those of features."""
    white = np.random.default_rng(seed).standard_normal((number, channels, *size))
    return torch.from_numpy(np.fft.ifft2(np.fft.fft2(white) / (0.3 + rho(size)) ** power).real)


def optimum(side, teacher, gain) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's best map, and the teacher that has one: no bins that the inverse blows up."""
    if side == "both":
        return teacher, teacher
    if side == "teacher":
        return filtered(teacher, gain), teacher
    usable = gain >= 0.05
    teacher = filtered(teacher, usable)
    return filtered(teacher, torch.where(usable, 1 / gain.clamp(min=0.05), 0.0)), teacher


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("represent", ["feature", "attention"])
def test_each_side_reaches_its_optimum(side, mask, represent):
    size = (12, 16)
    for (band, mix), distance in itertools.product(
        GAINS, ("relative", "mse", "log_mse", "l1", "cosine")
    ):
        gain = gain_of(size, band, mask, 0.5)
        best, teacher = optimum(side, noise(size, 1) + 3.0, gain)
        loss = band_loss(
            band=band,
            mix=mix,
            mask=mask,
            cutoff=0.5,
            high_share=0.3,
            filter_side=side,
            distance=distance,
            represent=represent,
        ).double()
        student = best
        if loss.adapter is not None:  # the student that its adapter makes the best one
            weight = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 4)))
            loss.adapter.weight.data = weight
            student = torch.einsum("oc,bchw->bohw", torch.linalg.inv(weight), best)
        at_best = value(loss, student, teacher).item()
        away = value(loss, student + 0.5 * noise(size, 0, seed=3), teacher).item()
        assert at_best < (1e-6 if distance == "l1" else 1e-12) < 1e-5 < away, (band, distance)
        if distance != "l1":
            assert gradient(loss, student, teacher).abs().max() < 1e-7


@pytest.mark.parametrize("side", SIDES)
def test_scale_and_mean_of_a_channel_do_not_count(side):
    gain = gain_of((12, 16), "low", "gaussian", 0.5)
    best, teacher = optimum(side, noise((12, 16), 1), gain)
    scales = torch.tensor([0.3, 1.0, 2.0, 0.7]).double()[:, None, None]
    loss = band_loss(cutoff=0.5, filter_side=side, adapter=False)
    assert value(loss, best * scales + 5.0, teacher).item() < 1e-12


def test_a_mix_of_losses_reaches_zero_where_both_sides_are_filtered():
    teacher = noise((12, 16), 1)
    loss = band_loss(band="mix", cutoff=0.5, adapter=False)
    assert value(loss, teacher, teacher).item() < 1e-12


@pytest.mark.parametrize("side", SIDES)
def test_the_attention_map_is_filtered_at_unit_mean_square(side):
    teacher = noise((12, 16), 1)
    loss = band_loss(
        cutoff=0.5, filter_side=side, represent="attention_then_filter", distance="mse"
    )
    zero = value(loss, teacher, teacher).item()
    assert zero < 1e-12 if side == "both" else zero > 1e-4


@pytest.fixture(scope="module")
def teacher_taps() -> dict[str, torch.Tensor]:
    model = registry.find("models", "segformer").build(classes=12, weights="embedded").eval()
    dataset = registry.find("datasets", "scenes").build(split="val", size=IMAGE)
    images = [torch.from_numpy(dataset.read(i)[0].copy()).permute(2, 0, 1) / 255 for i in range(4)]
    with torch.no_grad():
        return model(torch.stack(images), taps=["stage2", "stage3", "stage4", "decoder"])


def ratios(student, teacher, **arguments) -> list[float]:
    norms = {
        side: gradient(
            band_loss(teacher.shape[1:2] * 2, filter_side=side, adapter=False, **arguments),
            student,
            teacher,
        ).norm()
        for side in SIDES
    }
    return [float(norms[side] / norms["both"]) for side in ("teacher", "student")]


@pytest.mark.parametrize("mask", ["gaussian", "ideal"])
@pytest.mark.parametrize("band", ["low", "high"])
def test_sides_have_gradients_of_one_size_at_a_common_point(band, mask, teacher_taps):
    """Before, the gradient of one side was up to 4 times that of another."""
    cases = {
        f"noise {power}": (noise((24, 32), power), noise((24, 32), power, seed=1))
        for power in (0, 1)
    }
    for name, tap in teacher_taps.items():
        teacher = tap.double()
        mixing = noise((1, 1), 0, channels=teacher.shape[1], number=teacher.shape[1])[..., 0, 0]
        cases[name] = (torch.einsum("oc,bchw->bohw", mixing, teacher), teacher)
    for (name, (student, teacher)), cutoff in itertools.product(cases.items(), (0.25, 0.5)):
        if (name, cutoff) == ("stage4", 0.25):
            continue  # 1.4 effective cells
        for ratio in ratios(student, teacher, band=band, mask=mask, cutoff=cutoff):
            assert 0.5 < ratio < 2, (name, cutoff, ratio)
