"""The band loss against a float64 computation in numpy and scipy, and its known answers."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import scipy.signal
import torch

from freqkd_cli import registry
from freqkd_cli.errors import BandError, RecipeError, ShapeError
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch

BANDS = [("low", "loss"), ("high", "loss"), ("mix", "loss"), ("mix", "signal")]
SIDES = ("both", "teacher", "student")
MASKS = ("ideal", "gaussian", "butterworth")
DISTANCES = ("relative", "mse", "log_mse", "l1", "cosine")
CUTOFF, HIGH_SHARE = 0.45, 0.3

# (stride, h, w) of student and teacher: equal odd, equal even, teacher finer, student finer, mixed.
PAIRS = [
    ((8, 9, 11), (8, 9, 11)),
    ((8, 8, 10), (8, 8, 10)),
    ((8, 6, 7), (4, 12, 14)),
    ((4, 10, 12), (8, 5, 6)),
    ((8, 7, 8), (4, 13, 16)),
]


def batch_of(image: tuple[int, int], number: int = 2) -> Batch:
    return Batch(
        torch.zeros(number, 3, *image),
        None,
        torch.ones(number, *image, dtype=torch.bool),
        torch.arange(number),
        torch.zeros(number, dtype=torch.long),
    )


def image_of(pair) -> tuple[int, int]:
    """An image on which both taps have these grids (strides rounded up)."""
    (s, h, w), (t, hh, ww) = pair
    return min(s * h, t * hh), min(s * w, t * ww)


def band_loss(pair=PAIRS[0], channels=(3, 3), **arguments):
    loss = registry.find("losses", "band").build(student="s", teacher="t", **arguments)
    loss.start(
        {"s": Tap("s", pair[0][0], channels[0])}, {"t": Tap("t", pair[1][0], channels[1])}, 5
    )
    return loss


def maps(pair, channels=(3, 3), number=2, dtype=torch.float32, seed=0):
    """Maps of student and teacher with a mean and more energy at low frequencies, as features."""
    rng = np.random.default_rng(seed)
    both = []
    for (_, h, w), c in zip(pair, channels, strict=True):
        rho = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)) / 0.5
        noise = rng.standard_normal((number, c, h, w))
        both.append(
            torch.from_numpy(
                np.fft.ifft2(np.fft.fft2(noise) / (0.3 + rho)).real
                + rng.standard_normal((1, c, 1, 1))
            ).to(dtype)
        )
    return both


def number_of(x: torch.Tensor) -> float:
    return x.detach().item()


def value(loss, student, teacher, image) -> torch.Tensor:
    batch = batch_of(image, len(student))
    target = loss.target({"t": teacher}, batch, {"s": tuple(student.shape[-2:])})
    return loss({"s": student}, target, batch, 0)


# The independent computation


def low_mask(size, kind, cutoff, order=2):
    rho = (
        np.sqrt(np.fft.fftfreq(size[0])[:, None] ** 2 + np.fft.fftfreq(size[1])[None, :] ** 2) / 0.5
    )
    if kind == "ideal":
        return (rho <= cutoff + 1e-9) * 1.0
    return (
        np.exp(-(rho**2) / (2 * cutoff**2))
        if kind == "gaussian"
        else 1 / (1 + (rho / cutoff) ** (2 * order))
    )


def known_value(
    student,
    teacher,
    *,
    band="low",
    mix="loss",
    mask="gaussian",
    filter_side="both",
    distance="relative",
    represent="feature",
    normalize="channel",
    border="none",
    cutoff=CUTOFF,
    high_share=HIGH_SHARE,
    weight=None,
):
    s, t = student.double().numpy(), teacher.double().numpy()
    grid = [min(s.shape[i], t.shape[i]) for i in (2, 3)]
    s, t = (
        scipy.signal.resample(scipy.signal.resample(x, grid[0], axis=2), grid[1], axis=3)
        for x in (s, t)
    )
    if weight is not None:
        s = np.einsum("oi,bihw->bohw", weight, s)
    if normalize == "channel":
        s, t = (x - x.mean((2, 3), keepdims=True) for x in (s, t))

    def scaled(x):
        square = (x**2).mean((2, 3), keepdims=True)
        return x / np.sqrt(np.maximum(square, 0.01 * square.mean(1, keepdims=True)))

    def attention(x):
        a = (x**2).mean(1, keepdims=True)
        return a / np.sqrt((a**2).sum((1, 2, 3), keepdims=True))

    standardise = normalize == "channel"
    if represent == "attention_then_filter":
        s, t = (attention(scaled(x) if standardise else x) for x in (s, t))
        standardise = True
    if border == "hann":
        window = np.prod(
            np.meshgrid(
                *(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in grid), indexing="ij"
            ),
            axis=0,
        )
        s, t = s * window, t * window
    elif border == "reflect":
        s, t = (
            np.pad(x, ((0, 0), (0, 0), (0, grid[0] - 2), (0, grid[1] - 2)), mode="reflect")
            for x in (s, t)
        )
    low = low_mask(s.shape[2:], mask, cutoff)
    terms = {
        ("low", "loss"): [(1, low)],
        ("high", "loss"): [(1, 1 - low)],
        ("mix", "loss"): [(1 - high_share, low), (high_share, 1 - low)],
        ("mix", "signal"): [(1, (1 - high_share) * low + high_share * (1 - low))],
    }[band, mix]
    total = 0.0
    for share, gain in terms:
        filtered = [np.fft.ifft2(np.fft.fft2(x) * gain).real for x in (s, t)]
        a = filtered[0] if filter_side != "teacher" else s
        b = filtered[1] if filter_side != "student" else t
        below = (filtered[1] ** 2).sum((1, 2, 3)) + 1e-6 * (t**2).sum((1, 2, 3))
        balance = np.ones(len(t))
        if standardise:
            if filter_side != "both" and represent != "attention":
                energies = ((x**2).mean((2, 3)) for x in (filtered[1], t))
                balance = np.divide(*energies).mean(1) ** -0.5
            a, b, below = scaled(a), scaled(b), a[0].size
        if represent == "attention":
            a, b, below = attention(a), attention(b), 1 + 1e-6
        dots = {"aa": (a * a), "bb": (b * b), "ab": (a * b)}
        dots = {k: v.sum((1, 2, 3)) for k, v in dots.items()}
        total += (
            share
            * balance
            * {
                "relative": ((a - b) ** 2).sum((1, 2, 3)) / below,
                "mse": ((a - b) ** 2).mean((1, 2, 3)),
                "log_mse": np.log(1 + ((a - b) ** 2).mean((1, 2, 3))),
                "l1": abs(a - b).mean((1, 2, 3)),
                "cosine": 1 - dots["ab"] / np.sqrt(dots["aa"] * dots["bb"]),
            }[distance]
        ).mean()
    return total


def agree(pair, channels=(3, 3), weight=None, **arguments):
    student, teacher = maps(pair, channels)
    loss = band_loss(
        pair,
        channels,
        cutoff=CUTOFF,
        high_share=HIGH_SHARE,
        adapter=weight is not None,
        **arguments,
    )
    if weight is not None:
        loss.adapter.weight.data = torch.from_numpy(weight).float()
    known = known_value(student, teacher, weight=weight, **arguments)
    result = number_of(value(loss, student, teacher, image_of(pair)))
    assert abs(result - known) <= 1e-5 * max(abs(known), 1e-2), (arguments, result, known)


# Equality


@pytest.mark.parametrize("represent", ["feature", "attention", "attention_then_filter"])
@pytest.mark.parametrize(
    ("mask", "pair"),
    [*itertools.product(MASKS, PAIRS[:2]), *(("gaussian", pair) for pair in PAIRS[2:])],
    ids=str,
)
def test_equals_numpy_and_scipy(mask, pair, represent):
    for side, (band, mix), distance in itertools.product(SIDES, BANDS, DISTANCES):
        agree(
            pair,
            mask=mask,
            filter_side=side,
            band=band,
            mix=mix,
            distance=distance,
            represent=represent,
        )


@pytest.mark.parametrize("border", ["hann", "reflect"])
@pytest.mark.parametrize("represent", ["feature", "attention", "attention_then_filter"])
def test_borders_equal_numpy(border, represent):
    for (pair, band), side, distance in itertools.product(
        zip(PAIRS[1:3], ("low", "high"), strict=True), SIDES, DISTANCES
    ):
        agree(
            pair, filter_side=side, band=band, distance=distance, represent=represent, border=border
        )


@pytest.mark.parametrize("normalize", ["channel", "none"])
@pytest.mark.parametrize("border", ["none", "hann", "reflect"])
def test_the_adapter_commutes_with_everything_before_the_comparison(normalize, border):
    weight = np.random.default_rng(7).standard_normal((5, 3))
    for pair, side, mask, distance in itertools.product(
        PAIRS[2:4], SIDES, ("gaussian",), DISTANCES
    ):
        agree(
            pair,
            (3, 5),
            weight,
            filter_side=side,
            mask=mask,
            distance=distance,
            normalize=normalize,
            border=border,
        )


@pytest.mark.parametrize("represent", ["feature", "attention_then_filter"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_rows_without_the_bins_that_a_filter_drops(distance, represent):
    pair = ((8, 12, 15), (8, 12, 15))
    for normalize, weight, band in itertools.product(
        ("channel", "none"), (None, np.eye(3)[:, ::-1].copy()), ("low", "mix")
    ):
        student, teacher = maps(pair)
        given = dict(
            mask="ideal",
            cutoff=0.3,
            distance=distance,
            represent=represent,
            normalize=normalize,
            band=band,
        )
        if band == "mix":
            given |= {"mix": "signal", "high_share": 0.0}
        loss = band_loss(pair, adapter=weight is not None, **given)
        if loss.adapter is not None:
            loss.adapter.weight.data = torch.from_numpy(weight).float()
        target = loss.target({"t": teacher}, batch_of(image_of(pair)), {"s": (12, 15)})
        assert target["spectrum"].shape[-1] < 12 * 15 / 2
        standardised = normalize == "channel" or represent == "attention_then_filter"
        assert ("deviation" in target) == standardised != ("outside" in target)
        known = known_value(
            student, teacher, weight=weight if represent == "feature" else None, **given
        )
        assert number_of(
            loss({"s": student}, target, batch_of(image_of(pair)), 0)
        ) == pytest.approx(known, rel=1e-5)


def test_double_precision_is_exact_to_rounding():
    student, teacher = maps(PAIRS[4], dtype=torch.float64)
    for side, distance in itertools.product(SIDES, DISTANCES):
        loss = band_loss(
            PAIRS[4], adapter=False, cutoff=CUTOFF, filter_side=side, distance=distance
        )
        known = known_value(student, teacher, filter_side=side, distance=distance)
        assert number_of(value(loss, student, teacher, image_of(PAIRS[4]))) == pytest.approx(
            known, rel=1e-12
        )


# Gradients


@pytest.mark.parametrize("represent", ["feature", "attention", "attention_then_filter"])
@pytest.mark.parametrize("distance", ["relative", "mse", "cosine"])
@pytest.mark.parametrize("pair", [((8, 3, 4), (8, 3, 4)), ((4, 4, 4), (8, 2, 3))], ids=str)
def test_gradients(pair, distance, represent):
    student, teacher = maps(pair, (2, 2), number=1, dtype=torch.float64)
    student.requires_grad_(True)
    for side, border in (("both", "none"), ("teacher", "none"), ("student", "reflect")):
        loss = band_loss(
            pair,
            (2, 2),
            cutoff=0.6,
            filter_side=side,
            distance=distance,
            represent=represent,
            border=border,
        ).double()
        assert torch.autograd.gradcheck(
            lambda s, loss=loss: value(loss, s, teacher, image_of(pair)), (student,), fast_mode=True
        )
        if loss.adapter is not None:
            batch = batch_of(image_of(pair), 1)
            target = loss.target({"t": teacher}, batch, {"s": pair[0][1:]})

            def of_adapter(weight, loss=loss, given=({"s": student}, target, batch, 0)):
                return torch.func.functional_call(loss, {"adapter.weight": weight}, given)

            assert torch.autograd.gradcheck(
                of_adapter,
                (loss.adapter.weight.detach().clone().requires_grad_(True),),
                fast_mode=True,
            )


def gradient(loss, student, teacher, image):
    student = student.clone().requires_grad_(True)
    return torch.autograd.grad(value(loss, student, teacher, image), student)[0]


@pytest.mark.parametrize("band", ["low", "high"])
@pytest.mark.parametrize("distance", ["relative", "mse"])
def test_with_an_ideal_mask_filtering_the_student_has_the_gradient_of_filtering_both(
    distance, band
):
    for pair in PAIRS[1:3]:
        student, teacher = maps(pair, dtype=torch.float64)
        arguments = dict(
            mask="ideal",
            band=band,
            distance=distance,
            adapter=False,
            cutoff=CUTOFF,
        )
        losses = {
            (side, normalize): band_loss(pair, filter_side=side, normalize=normalize, **arguments)
            for side in SIDES
            for normalize in ("channel", "none")
        }
        of = {key: gradient(loss, student, teacher, image_of(pair)) for key, loss in losses.items()}
        both, one, other = (of[side, "none"] for side in ("both", "student", "teacher"))
        torch.testing.assert_close(one, both, rtol=1e-10, atol=1e-14)
        assert (other - both).abs().max() > 1e-3 * both.abs().max()
        # Standardised, each channel of the two has one direction.
        both, one = (of[side, "channel"].flatten(2) for side in ("both", "student"))
        cosines = torch.nn.functional.cosine_similarity(one, both, dim=-1)
        torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=1e-10, atol=0)


def test_equal_shares_of_a_signal_mix_are_plain_feature_distillation():
    student, teacher = maps(PAIRS[0])
    mixed = value(
        band_loss(adapter=False, band="mix", mix="signal", high_share=0.5),
        student,
        teacher,
        image_of(PAIRS[0]),
    )
    plain = registry.find("losses", "feature").build(student="s", teacher="t", adapter=False)
    plain.start({"s": Tap("s", 8, 3)}, {"t": Tap("t", 8, 3)}, 5)
    assert number_of(mixed) == pytest.approx(
        number_of(value(plain, student, teacher, image_of(PAIRS[0]))), rel=1e-5
    )


# Half floats, zero maps, targets


@pytest.mark.parametrize("represent", ["feature", "attention", "attention_then_filter"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dead", ["student", "teacher", "both"])
def test_maps_of_zeros_have_finite_values_and_gradients(dead, distance, represent):
    for side, normalize, border in itertools.product(SIDES, ("channel", "none"), ("none", "hann")):
        student, teacher = maps(PAIRS[0])
        student = (student * 0 if dead != "teacher" else student).requires_grad_(True)
        teacher = teacher * 0 if dead != "student" else teacher
        loss = band_loss(
            filter_side=side,
            normalize=normalize,
            distance=distance,
            represent=represent,
            border=border,
        )
        result = value(loss, student, teacher, image_of(PAIRS[0]))
        result.backward()
        assert torch.isfinite(result) and torch.isfinite(student.grad).all()


def test_half_float_taps_under_autocast_are_computed_in_float32():
    student, teacher = maps(PAIRS[0], (3, 5))
    loss = band_loss(channels=(3, 5))
    half = student.bfloat16().requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = value(loss, half, teacher, image_of(PAIRS[0]))
    assert result.dtype == torch.float32
    torch.testing.assert_close(
        result, value(loss, half.detach().float(), teacher, image_of(PAIRS[0]))
    )
    result.backward()
    assert half.grad.dtype == torch.bfloat16 and torch.isfinite(half.grad).all()


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("represent", ["feature", "attention"])
def test_a_rounded_target_changes_the_loss_by_less_than_a_thousandth(represent, storage):
    pair = ((8, 23, 30), (8, 23, 30))
    student, teacher = maps(pair, (8, 8))
    teacher = teacher * 30.0  # LayerNorm and ReLU taps reach such values
    for band, mask, cutoff in itertools.product(
        ("low", "high"), ("gaussian", "ideal"), (0.15, 0.25, 0.6)
    ):
        loss = band_loss(pair, (8, 8), band=band, mask=mask, cutoff=cutoff, represent=represent)
        batch = batch_of(image_of(pair))
        target = loss.target({"t": teacher}, batch, {"s": (23, 30)})
        exact = number_of(loss({"s": student}, target, batch, 0))
        rounded = number_of(
            loss({"s": student}, {k: v.to(storage) for k, v in target.items()}, batch, 0)
        )
        assert abs(rounded - exact) < 1e-3 * exact


def test_the_learned_adapter_never_touches_the_target():
    student, teacher = maps(PAIRS[0])
    loss = band_loss()
    batch = batch_of(image_of(PAIRS[0]))
    before = loss.target({"t": teacher.requires_grad_(True)}, batch, {"s": (9, 11)})
    loss.adapter.weight.data.normal_()
    after = loss.target({"t": teacher}, batch, {"s": (9, 11)})
    assert (
        torch.equal(before["spectrum"], after["spectrum"]) and not before["spectrum"].requires_grad
    )


# What a recipe may get wrong


def test_cutoff_in_cycles_per_image_pixel():
    student, teacher = maps(PAIRS[2])
    by_cycles = band_loss(
        PAIRS[2], adapter=False, cutoff_cycles=0.025
    )  # the coarser tap has stride 8
    by_nyquist = band_loss(PAIRS[2], adapter=False, cutoff=0.4)
    image = image_of(PAIRS[2])
    known = number_of(value(by_nyquist, student, teacher, image))
    assert number_of(value(by_cycles, student, teacher, image)) == pytest.approx(known, rel=1e-6)
    with pytest.raises(BandError, match="cutoff_cycles 1 "):
        band_loss(PAIRS[2], cutoff_cycles=1.0).check_grids({"s": (6, 7)}, {"t": (12, 14)})


def test_the_usable_cutoffs_are_in_the_unit_of_the_key():
    """The message had Nyquist units, so that none of its cutoffs could be used."""
    grids = {"s": (6, 7)}, {"t": (12, 14)}
    with pytest.raises(BandError, match="with cutoff_cycles 0.0001 ") as error:
        band_loss(PAIRS[2], cutoff_cycles=0.0001).check_grids(*grids)
    assert error.value.key == "cutoff_cycles"
    smallest, largest = re.search(r"a cutoff_cycles from (\S+) to (\S+)$", error.value.tip).groups()
    for cutoff in (float(smallest), float(largest)):
        band_loss(PAIRS[2], cutoff_cycles=cutoff).check_grids(*grids)


def test_two_cutoffs_are_refused():
    with pytest.raises(RecipeError, match="two cutoffs"):
        band_loss(cutoff=0.25, cutoff_cycles=0.02)


def test_different_channels_without_adapter_are_refused():
    with pytest.raises(RecipeError, match="different channels"):
        band_loss(channels=(3, 4), adapter=False)
    band_loss(channels=(3, 4), represent="attention")


@pytest.mark.parametrize(
    "arguments",
    [{"cutoff": 0.05, "mask": "ideal"}, {"cutoff": 2.0, "mask": "ideal"}, {"cutoff": 30.0}],
)
def test_an_empty_band_is_refused_with_what_would_do(arguments):
    with pytest.raises(BandError, match=r"student 's' and teacher 't'") as error:
        band_loss(**arguments).check_grids({"s": (6, 8)}, {"t": (12, 15)})
    assert "6x8 cells" in str(error.value) and "cutoff from" in str(error.value)


def test_a_target_of_another_grid_is_refused():
    student, teacher = maps(PAIRS[0])
    loss = band_loss(adapter=False)
    target = loss.target({"t": teacher}, batch_of(image_of(PAIRS[0])), {"s": (9, 11)})
    with pytest.raises(ShapeError, match="does not fit"):
        loss({"s": student[..., :8]}, target, batch_of(image_of(PAIRS[0])), 0)


def test_every_key_that_changes_the_target_is_named():
    pair = PAIRS[2]
    _, teacher = maps(pair)
    changed = {
        "band": "high",
        "cutoff": 0.2,
        "mask": "gaussian",
        "order": 3,
        "high_share": 0.9,
        "mix": "signal",
        "filter_side": "student",
        "represent": "attention",
        "normalize": "none",
        "border": "hann",
        "distance": "l1",
        "adapter": False,
    }
    starts = [
        {"mask": "ideal", "cutoff": 0.3},
        {"mask": "butterworth", "represent": "attention", "band": "mix"},
        {"represent": "attention", "band": "mix", "mix": "signal"},
    ]

    def target(**arguments):
        return band_loss(pair, **arguments).target(
            {"t": teacher}, batch_of(image_of(pair)), {"s": pair[0][1:]}
        )

    changing = set()
    for start, (key, new) in itertools.product(starts, changed.items()):
        a, b = target(**start), target(**(start | {key: new}))
        if a.keys() != b.keys() or any(
            a[k].shape != b[k].shape or not torch.equal(a[k], b[k]) for k in a
        ):
            changing.add(key)
    plain, weighted, stronger = (
        target(band="low", **keys)
        for keys in ({}, {"attention": "high"}, {"attention": "high", "strength": 9.0})
    )
    assert weighted.keys() - plain.keys() == {"emphasis", "energy"}
    assert all(torch.equal(weighted[k], stronger[k]) for k in weighted)
    changing.add("attention")
    named = set(band_loss().target_arguments)
    assert changing == named - {"teacher", "cutoff_cycles"}
