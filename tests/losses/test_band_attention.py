"""Known answers of ``band`` with ``attention``, from numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freqkd_cli import registry
from freqkd_cli.errors import RecipeError
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch

GRID, IMAGE, CUTOFF, STRENGTH = (6, 8), (24, 32), 0.5, 3.0
NAMES = {"student": "s", "teacher": "t", "adapter": False}
DISTANCES = ["relative", "mse", "log_mse", "l1"]
SIDES = ["both", "teacher", "student"]


def maps(seed: int, number: int = 2, channels: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((number, channels, *GRID)) + 0.5)


def value(student: torch.Tensor, teacher: torch.Tensor, **arguments) -> torch.Tensor:
    """The loss; the right half of the second image is padding."""
    valid = torch.ones(len(student), *IMAGE, dtype=torch.bool)
    valid[1:, :, 16:] = False
    numbers = torch.arange(len(student))
    batch = Batch(torch.zeros(len(student), 3, *IMAGE), None, valid, numbers, numbers)
    loss = registry.find("losses", "band").build(**NAMES, cutoff=CUTOFF, **arguments)
    loss.start(*({n: Tap(n, 4, x.shape[1])} for n, x in (("s", student), ("t", teacher))), 2)
    return loss({"s": student}, loss.target({"t": teacher}, batch, {"s": GRID}), batch, 0)


def filtered(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """A map ``[C, h, w]`` through ``low`` times the low-pass plus ``high`` times the rest."""
    h, w = x.shape[1:]
    rho = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None]) / 0.5
    gain = np.exp(-((rho / CUTOFF) ** 2) / 2)
    return np.fft.ifft2(np.fft.fft2(x) * (low * gain + high * (1 - gain))).real


def deviation(x: np.ndarray) -> np.ndarray:
    """What a channel of ``[C, h, w]`` is divided by."""
    variance = x.var((1, 2), keepdims=True)
    return np.sqrt(np.maximum(variance, 0.01 * variance.mean()))


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((1, 2), keepdims=True)) / deviation(x)


def relative_strength(teacher: np.ndarray, gains, inside: np.ndarray) -> np.ndarray:
    a = np.sqrt((filtered(teacher, *gains) ** 2).mean(0))
    return np.where(inside, a / a[inside].mean(), 1.0)


def known(student, teacher, inside, gains, terms, side, distance, normalize) -> float:
    """The loss of one image; ``gains`` of the attention, ``terms`` of the band with shares."""
    a = relative_strength(
        standardised(teacher) if normalize == "channel" else teacher, gains, inside
    )
    w, total = (1 + STRENGTH * a) / (1 + STRENGTH), 0.0
    for share, term in terms:
        x = student if side == "teacher" else filtered(student, *term)
        y = teacher if side == "student" else filtered(teacher, *term)
        whole = (teacher**2).mean((1, 2)).sum()
        energy = (filtered(teacher, *term) ** 2).mean((1, 2)).sum() + 1e-6 * whole
        if normalize == "channel":
            if side != "both":
                parts = deviation(filtered(teacher, *term)) / deviation(teacher)
                share = share / np.sqrt((parts**2).mean())
            x, y, energy = standardised(x), standardised(y), len(y)
        squares = (w * (x - y) ** 2).mean()
        if distance == "relative":
            under_weights = (1 + STRENGTH * (a * y**2).mean() / (y**2).mean()) / (1 + STRENGTH)
            total += share * len(y) * squares / (energy * under_weights)
        elif distance == "l1":
            total += share * (w * np.abs(x - y)).mean()
        else:
            total += share * (squares if distance == "mse" else np.log1p(squares))
    return total


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("normalize", ["channel", "none"])
@pytest.mark.parametrize(("band", "attention"), [("high", "high"), ("low", "mix"), ("mix", "low")])
def test_squares_of_the_filtered_difference_have_the_weight_of_their_cell(
    band, attention, distance, side, normalize
):
    student, teacher = maps(0), maps(1)
    arguments = {"filter_side": side, "distance": distance, "normalize": normalize}
    result = value(
        student,
        teacher,
        band=band,
        attention=attention,
        strength=STRENGTH,
        high_share=0.7,
        **arguments,
    )
    gains = {"low": (1, 0), "high": (0, 1), "mix": (0.3, 0.7)}[attention]
    terms = {"low": [(1, (1, 0))], "high": [(1, (0, 1))], "mix": [(0.3, (1, 0)), (0.7, (0, 1))]}
    images = []
    for row, columns in ((0, 8), (1, 4)):
        inside = np.broadcast_to(np.arange(8) < columns, GRID)
        pair = student[row].numpy(), teacher[row].numpy()
        images.append(known(*pair, inside, gains, terms[band], side, distance, normalize))
    assert float(result) == pytest.approx(np.mean(images), rel=1e-7)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("normalize", ["channel", "none"])
@pytest.mark.parametrize("border", ["none", "hann", "reflect"])
def test_strength_0_equals_no_attention(distance, side, normalize, border):
    student, teacher = maps(0), maps(1)
    arguments = {"filter_side": side, "distance": distance, "normalize": normalize}
    arguments |= {"border": border, "band": "mix"}
    plain = value(student, teacher, **arguments).item()
    zero, some = (
        value(student, teacher, attention="high", strength=s, **arguments).item()
        for s in (0.0, 4.0)
    )
    assert zero == pytest.approx(plain, rel=1e-10) and some != pytest.approx(plain, rel=1e-6)


def test_a_mirrored_map_has_mirrored_weights():
    student, teacher = maps(0, 1), maps(1, 1)
    arguments = {"normalize": "none", "distance": "mse", "band": "low", "border": "reflect"}
    result = value(student, teacher, attention="high", strength=STRENGTH, **arguments)
    a = relative_strength(teacher[0].numpy(), (0, 1), np.ones(GRID, bool))

    def mirrored(x: np.ndarray) -> np.ndarray:
        """Continued to a period of 2h - 2 by 2w - 2."""
        before = [(0, 0)] * (x.ndim - 2)
        return np.pad(x, [*before, (0, GRID[0] - 2), (0, GRID[1] - 2)], mode="reflect")

    difference = filtered(mirrored((student - teacher)[0].numpy()), 1, 0)
    w = mirrored((1 + STRENGTH * a) / (1 + STRENGTH))
    assert float(result) == pytest.approx((w * difference**2).mean(), rel=1e-9)


@pytest.mark.parametrize("normalize", ["channel", "none"])
def test_relative_is_1_for_a_student_of_zeros_with_any_weights(normalize):
    zeros = torch.zeros(2, 3, *GRID, dtype=torch.float64)
    for more in ({}, {"attention": "high", "strength": 9.0}):
        result = value(zeros, maps(1), band="high", normalize=normalize, **more)
        assert result.item() == pytest.approx(1.0, rel=1e-4)


def test_a_band_without_signal_has_a_finite_gradient():
    student, flat = maps(0).requires_grad_(True), torch.full((2, 3, *GRID), 2.0).double()
    for normalize in ("channel", "none"):
        result = value(student, flat, band="high", attention="high", normalize=normalize)
        (gradient,) = torch.autograd.grad(result, student)
        assert torch.isfinite(result) and torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ({"represent": "attention"}, "represent: attention"),
        ({"represent": "attention_then_filter", "distance": "cosine"}, "represent: attention_then"),
        ({"distance": "cosine"}, "distance: cosine"),
    ],
)
def test_attention_is_refused_where_there_are_no_cells_to_weight(arguments, got):
    build = registry.find("losses", "band").build
    build(student="s", teacher="t", **arguments)
    with pytest.raises(RecipeError, match="attention weights the cells") as caught:
        build(student="s", teacher="t", attention="high", **arguments)
    assert got in caught.value.got and caught.value.key == "attention"
