"""Known answers of frequency attention on features and on labels, from numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from scipy.ndimage import zoom

from freqkd_cli import registry
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch

CLASSES, GRID, IMAGE = 4, (6, 8), (24, 32)
KEYS = {"attention": "high", "cutoff": 0.5, "strength": 3.0}


def maps(number: int, channels: int, seed: int, grid=GRID) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((number, channels, *grid)))


def batch_of(number: int = 2, labels: torch.Tensor | None = None, valid=None) -> Batch:
    numbers = torch.arange(number)
    valid = torch.ones(number, *IMAGE, dtype=torch.bool) if valid is None else valid
    labels = torch.zeros(number, *IMAGE, dtype=torch.long) if labels is None else labels
    return Batch(torch.zeros(number, 3, *IMAGE), labels, valid, numbers, numbers)


def half_valid() -> torch.Tensor:
    """The right half of the second image is padding."""
    valid = torch.ones(2, *IMAGE, dtype=torch.bool)
    valid[1, :, 16:] = False
    return valid


def strength_of(
    x: np.ndarray, attention: str, cutoff: float, high_share: float = 0.5
) -> np.ndarray:
    """a of one map ``[C, h, w]``, with the Gaussian mask."""
    h, w = x.shape[1:]
    rho = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None]) / 0.5
    low = np.exp(-((rho / cutoff) ** 2) / 2)
    share = {"low": 0.0, "high": 1.0}.get(attention, high_share)
    gain = (1 - share) * low + share * (1 - low)
    return np.sqrt((np.fft.ifft2(np.fft.fft2(x) * gain).real ** 2).mean(0))


def weights_of(x: np.ndarray, strength: float, inside: np.ndarray, *band) -> np.ndarray:
    """Weight of each cell of one map; 1 outside the image."""
    a = strength_of(x, *band)
    return np.where(inside, (1 + strength * a / a[inside].mean()) / (1 + strength), 1.0)


def standardised(x: np.ndarray) -> np.ndarray:
    """Zero mean and unit deviation over the cells of every channel of ``[C, h, w]``."""
    variance = x.var((1, 2), keepdims=True)
    return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(
        np.maximum(variance, 0.01 * variance.mean())
    )


def value(name: str, sides, batch: Batch, **arguments) -> torch.Tensor:
    """The loss of the maps ``{tap: tensor}`` of student and teacher."""
    loss = registry.find("losses", name).build(**arguments)
    taps = [
        {
            n: Tap(n, 4, x.shape[1], "logits" if n == "logits" else "features")
            for n, x in side.items()
        }
        for side in sides
    ]
    student, teacher = sides
    loss.start(*taps, CLASSES)
    grids = {name: tuple(x.shape[-2:]) for name, x in student.items()}
    return loss(student, loss.target(teacher, batch, grids), batch, 0)


# feature


@pytest.mark.parametrize("attention", ["low", "high", "mix"])
@pytest.mark.parametrize("distance", ["relative", "mse"])
@pytest.mark.parametrize("normalize", ["channel", "none"])
def test_feature_weights_squares_by_the_band_of_the_standardised_teacher(
    attention, distance, normalize
):
    student, teacher = maps(2, 3, 0) + 2.0, 3.0 * maps(2, 3, 1) - 1.0
    band = {"attention": attention, "cutoff": 0.5, "high_share": 0.8}
    arguments = {"distance": distance, "normalize": normalize, "adapter": False, "strength": 3.0}
    names = {"student": "s", "teacher": "t"}
    batch = batch_of(valid=half_valid())
    result = value("feature", ({"s": student}, {"t": teacher}), batch, **names, **band, **arguments)
    known = []
    for row, columns in ((0, 8), (1, 4)):
        a, b = student[row].numpy(), teacher[row].numpy()
        if normalize == "channel":
            a, b = standardised(a), standardised(b)
        inside = np.broadcast_to(np.arange(8) < columns, GRID)
        w = weights_of(b, 3.0, inside, attention, 0.5, 0.8)
        assert w.mean() == pytest.approx(1.0)
        error = (w * (a - b) ** 2).sum()
        known.append(
            error / ((1 + 1e-6) * (w * b**2).sum()) if distance == "relative" else error / b.size
        )
    assert float(result) == pytest.approx(np.mean(known), rel=1e-9)


@pytest.mark.parametrize("distance", ["relative", "mse"])
def test_feature_with_strength_0_equals_feature_without_attention(distance):
    student, teacher = {"s": maps(2, 3, 0)}, {"t": maps(2, 5, 1)}
    arguments = {"student": "s", "teacher": "t", "distance": distance}
    values = []
    for more in ({}, KEYS | {"strength": 0.0}, KEYS):
        torch.manual_seed(0)  # of the adapter
        values.append(value("feature", (student, teacher), batch_of(), **arguments, **more).item())
    assert values[1] == pytest.approx(values[0], rel=1e-12) and values[2] != values[0]


def test_feature_with_attention_is_1_for_a_student_of_zeros_and_on_a_constant_map_plain():
    teacher = {"t": maps(2, 3, 1)}
    arguments = {"student": "s", "teacher": "t", "adapter": False} | KEYS
    zeros = {"s": torch.zeros(2, 3, *GRID).double()}
    assert value("feature", (zeros, teacher), batch_of(), **arguments).item() == pytest.approx(
        1.0, rel=1e-5
    )
    flat = {"t": torch.full((2, 3, *GRID), 2.0, dtype=torch.float64)}
    student = {"s": maps(2, 3, 0)}
    plain = arguments | {"normalize": "none"}
    assert value("feature", (student, flat), batch_of(), **plain).item() == pytest.approx(
        value("feature", (student, flat), batch_of(), **plain | {"attention": "none"}).item()
    )


@pytest.mark.parametrize("level", [1e-9, 1e4])
def test_a_constant_map_has_the_same_weight_in_every_cell_at_any_level(level):
    """In float32, where a filter leaves rounding errors of the mean."""
    loss = registry.find("losses", "feature").build(
        student="s", teacher="t", normalize="none", adapter=False, **KEYS
    )
    taps = {n: Tap(n, 4, 3) for n in ("s", "t")}
    loss.start(taps, taps, CLASSES)
    grid = (7, 9)
    flat, varying = torch.full((1, 3, *grid), level), level * maps(1, 3, 1, grid).float()
    weights = [loss.target({"t": x}, batch_of(1), {"s": grid})["emphasis"] for x in (flat, varying)]
    assert weights[0].eq(1).all() and weights[1].std() > 0.1


def test_feature_without_attention_computes_and_stores_no_weights():
    names = {"student": "s", "teacher": "t"}
    for name, plain in (("feature", {"map"}), ("logit_kl", {"logits"}), ("cross_entropy", set())):
        taken = names if name == "feature" else {}
        for more, stored in (({}, plain), (KEYS, plain | {"emphasis"})):
            loss = registry.find("losses", name).build(**taken, **more)
            taps = {n: Tap(n, 4, CLASSES, "logits") for n in ("s", "t", "logits")}
            loss.start(taps, taps, CLASSES)
            teacher = {"t": maps(2, CLASSES, 1), "logits": maps(2, CLASSES, 2)}
            target = loss.target(teacher, batch_of(), {"s": GRID, "logits": GRID})
            assert set(target) == stored
            assert ("attention" in loss.target_arguments) == ("emphasis" in stored)
            assert "strength" not in loss.target_arguments


# cross_entropy


def labels_of(seed: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (2, *IMAGE))
    return torch.from_numpy(np.where(rng.random(labels.shape) < 0.2, 255, labels))


def upsampled(x: np.ndarray) -> np.ndarray:
    """Bilinear, to the image, with the corners of cells and pixels on one another."""
    return zoom(x, (IMAGE[0] / x.shape[0], IMAGE[1] / x.shape[1]), order=1, mode="nearest",
                grid_mode=True)  # fmt: skip


@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 2.0, 0.0]])
def test_cross_entropy_weights_pixels_by_the_band_of_the_teacher_s_probabilities(class_weights):
    student, teacher, labels = maps(2, CLASSES, 0), 2.0 * maps(2, CLASSES, 1), labels_of()
    valid = half_valid()
    labels[~valid] = 255
    batch = batch_of(labels=labels, valid=valid)
    arguments = KEYS | {"class_weights": class_weights}
    result = value("cross_entropy", ({"logits": student}, {"logits": teacher}), batch, **arguments)
    of_class = np.append(class_weights or np.ones(CLASSES), np.zeros(252))
    total = counted = 0.0
    for row, columns in ((0, 8), (1, 4)):
        p = scipy.special.softmax(teacher[row].numpy(), axis=0)
        a = strength_of(p, "high", 0.5)
        inside = np.broadcast_to(np.arange(8) < columns, GRID)
        a = upsampled(np.where(inside, a / a[inside].mean(), 1.0))
        log_p = scipy.special.log_softmax(np.stack([upsampled(z) for z in student[row].numpy()]), 0)
        truth = labels[row].numpy()
        each = -np.take_along_axis(log_p, np.minimum(truth, CLASSES - 1)[None], 0)[0]
        counts = of_class[truth]
        w = (1 + 3.0 * a) / 4.0
        w = w * counts.sum() / (w * counts).sum()
        total += (w * counts * each).sum()
        counted += counts.sum()
    assert float(result) == pytest.approx(total / counted, rel=1e-9)


@pytest.mark.parametrize("more", [{}, {"ohem": 0.3}, {"label_smoothing": 0.1}])
def test_cross_entropy_with_strength_0_equals_that_without_attention(more):
    student, teacher = {"logits": maps(2, CLASSES, 0)}, {"logits": maps(2, CLASSES, 1)}
    batch = batch_of(labels=labels_of())
    plain, zero, weighted = (
        value("cross_entropy", (student, teacher), batch, **more, **keys).item()
        for keys in ({}, KEYS | {"strength": 0.0}, KEYS)
    )
    assert zero == pytest.approx(plain, rel=1e-12) and weighted != pytest.approx(plain, rel=1e-4)


def test_cross_entropy_weights_auxiliary_heads_and_images_with_labels_alike():
    """The first image has no label: the weights of the second are still those of the second."""
    labels = labels_of()
    labels[0] = 255
    student, teacher = maps(2, CLASSES, 0), maps(2, CLASSES, 1)
    loss = registry.find("losses", "cross_entropy").build(auxiliary=0.5, **KEYS)
    batch = batch_of(labels=labels)
    target = loss.target({"logits": teacher}, batch, {"logits": GRID})
    both = loss({"logits": student, "aux": student}, target, batch, 0)
    alone = batch_of(1, labels=labels[1:])
    one = value("cross_entropy", ({"logits": student[1:]}, {"logits": teacher[1:]}), alone, **KEYS)
    assert both.item() == pytest.approx(1.5 * one.item(), rel=1e-12)
