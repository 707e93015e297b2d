"""Known answers of the losses that compare class scores beside ``logit_kl``."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch

from freqkd_cli import registry
from freqkd_cli.errors import RecipeError
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch

CLASSES, GRID = 4, (5, 6)


def batch_of(number: int, grid=GRID, labels=None, valid=None) -> Batch:
    """A batch whose pixels are the cells of the grid."""
    labels = torch.full((number, *grid), 255) if labels is None else labels
    valid = torch.ones(number, *grid, dtype=torch.bool) if valid is None else valid
    return Batch(
        torch.zeros(number, 3, *grid), labels, valid, torch.arange(number), torch.zeros(number)
    )


def logits_of(number: int = 2, grid=GRID) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of student and teacher, drawn one after the other."""
    rng = np.random.default_rng(11)
    shape = (number, CLASSES, *grid)
    student, teacher = (2 * rng.standard_normal(shape) for _ in range(2))
    return torch.from_numpy(student), torch.from_numpy(teacher)


def value(name: str, student, teacher, batch: Batch, **arguments) -> torch.Tensor:
    loss = registry.find("losses", name).build(**arguments)
    taps = {"logits": Tap("logits", 1, CLASSES, "logits")}
    loss.start(taps, taps, CLASSES)
    target = loss.target({"logits": teacher}, batch, {"logits": tuple(student.shape[-2:])})
    return loss({"logits": student}, target, batch, 0)


def probabilities(logits: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    return scipy.special.softmax(logits.numpy() / temperature, axis=1)


# dist


def test_dist_equals_the_authors_code():
    """Both terms of hunto/DIST_KD, commit 6d93ca0, on the same tensors."""
    student, teacher = logits_of()
    for arguments, known in (
        ({"gamma": 0.0}, 1.0517219186021214),
        ({"beta": 0.0}, 0.949274698411766),
    ):
        result = value("dist", student, teacher, batch_of(2), **arguments)
        assert float(result) == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize("over", ["batch", "image"])
def test_dist_is_one_minus_numpy_s_correlation_over_inside_cells(over):
    student, teacher = logits_of()
    valid = torch.ones(2, *GRID, dtype=torch.bool)
    valid[1, :, 4:] = False
    p, q = probabilities(student, 2.0), probabilities(teacher, 2.0)
    inside = valid.numpy()
    images = (
        [inside]
        if over == "batch"
        else [inside & (np.arange(2) == i)[:, None, None] for i in (0, 1)]
    )

    def correlation(a, b):
        return np.corrcoef(a, b)[0, 1]

    p_rows, q_rows = (np.moveaxis(x, 1, -1)[inside] for x in (p, q))
    classes = np.mean([1 - correlation(a, b) for a, b in zip(p_rows, q_rows, strict=True)])
    cells = [
        (m.sum(), np.mean([1 - correlation(p[:, k][m], q[:, k][m]) for k in range(CLASSES)]))
        for m in images
    ]
    within = sum(n * loss for n, loss in cells) / sum(n for n, _ in cells)
    batch = batch_of(2, valid=valid)
    result = value("dist", student, teacher, batch, over=over, temperature=2.0, gamma=0.5)
    assert float(result) == pytest.approx(4.0 * (classes + 0.5 * within), rel=1e-6)


def test_dist_ignores_scale_and_offset_of_the_probabilities():
    """A mix of the teacher's probabilities with the uniform distribution has correlation 1."""
    _, teacher = logits_of()
    mixed = torch.from_numpy(np.log(0.3 * probabilities(teacher) + 0.7 / CLASSES))
    assert float(value("dist", mixed, teacher, batch_of(2))) == pytest.approx(0.0, abs=1e-6)


# cwd


@pytest.mark.parametrize(
    ("temperature", "known"), [(4.0, 3.4655865830827843), (1.0, 2.63802441721959)]
)
def test_cwd_equals_the_authors_code(temperature, known):
    """irfanICMLL/TorchDistiller, SemSeg-distill/utils/criterion.py, commit c2caaca."""
    student, teacher = logits_of()
    result = value("cwd", student, teacher, batch_of(2), temperature=temperature)
    assert float(result) == pytest.approx(known, rel=1e-12)


def test_cwd_is_scipy_s_relative_entropy_of_the_inside_cells():
    student, teacher = logits_of()
    valid = torch.ones(2, *GRID, dtype=torch.bool)
    valid[1, :, 4:] = False
    total = 0.0
    for row, columns in ((0, 6), (1, 4)):
        p, q = (
            scipy.special.softmax(x[row, :, :, :columns].numpy().reshape(CLASSES, -1) / 4.0, axis=1)
            for x in (teacher, student)
        )
        total += scipy.special.rel_entr(p, q).sum()
    result = value("cwd", student, teacher, batch_of(2, valid=valid))
    assert float(result) == pytest.approx(16.0 * total / (2 * CLASSES), rel=1e-9)


# octave_kl


def pooled(x: np.ndarray) -> np.ndarray:
    """Sums over 2x2 cells of ``[..., h, w]``, with empty cells where a side is odd."""
    h, w = x.shape[-2:]
    x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, h % 2), (0, w % 2)])
    return x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]


def octaves(student, teacher, mass: np.ndarray, levels: int) -> np.ndarray:
    """What each octave adds to the sum of KL, ``[B, levels + 1]``, in numpy."""
    p, q = (mass[:, None] * probabilities(x) for x in (teacher, student))
    sums = []
    for _ in range(levels + 1):
        sums.append(scipy.special.rel_entr(p, q).sum((1, 2, 3)))
        p, q = pooled(p), pooled(q)
    return np.stack([*(a - b for a, b in zip(sums, sums[1:], strict=False)), sums[-1]], axis=1)


@pytest.mark.parametrize("grid", [(5, 6), (8, 8), (1, 7), (13, 3)])
def test_octaves_are_not_negative_and_add_up_to_the_pixel_kl(grid):
    student, teacher = logits_of(grid=grid)
    valid = torch.ones(2, *grid, dtype=torch.bool)
    valid[1, :, -2:] = False
    batch, cells = batch_of(2, grid, valid=valid), valid.sum().item()
    known = octaves(student, teacher, valid.double().numpy(), 3)
    assert known.min() > -1e-12
    plain = float(value("logit_kl", student, teacher, batch))
    assert known.sum() / cells == pytest.approx(plain, rel=1e-12)
    for number in range(4):
        weights = [1.0 if i == number else 0.0 for i in range(4)]
        part = value("octave_kl", student, teacher, batch, levels=3, weights=weights)
        assert float(part) == pytest.approx(known[:, number].sum() / cells, abs=1e-12)
    for power in (0.0, 0.5, 1.0):  # the value is that of logit_kl, whatever the weights
        whole = value("octave_kl", student, teacher, batch, levels=3, power=power)
        assert float(whole) == pytest.approx(plain, rel=1e-9)


def test_power_0_has_the_gradient_of_logit_kl_and_power_1_gives_each_octave_the_same_share():
    student, teacher = logits_of(grid=(8, 8))
    student.requires_grad_()
    batch = batch_of(2, (8, 8))
    plain, zero, one = (
        torch.autograd.grad(value(name, student, teacher, batch, **arguments), student)[0]
        for name, arguments in (
            ("logit_kl", {}),
            ("octave_kl", {"levels": 3, "power": 0.0}),
            ("octave_kl", {"levels": 3, "power": 1.0}),
        )
    )
    torch.testing.assert_close(zero, plain)
    assert not torch.allclose(one, plain)
    parts = octaves(student.detach(), teacher, np.ones((2, 8, 8)), 3)
    shares = parts / parts.sum(1, keepdims=True)
    total = torch.zeros(())
    for image in range(2):
        one_image = student[image : image + 1], teacher[image : image + 1], batch_of(1, (8, 8))
        weights = (1 / shares[image] / len(shares[image])).tolist()
        total = total + 0.5 * value("octave_kl", *one_image, levels=3, weights=weights)
    torch.testing.assert_close(torch.autograd.grad(total, student)[0], one)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_octave_kl_of_equal_scores_has_no_large_gradient(power):
    """Rounding was divided by a KL of 0: the gradient was infinite in float32."""
    teacher = logits_of(grid=(8, 8))[1].float()
    student = teacher.clone().requires_grad_()
    result = value("octave_kl", student, teacher, batch_of(2, (8, 8)), levels=3, power=power)
    (gradient,) = torch.autograd.grad(result, student)
    assert abs(result.item()) < 1e-6 and gradient.abs().max() < 1e-6


def test_octave_kl_refuses_weights_that_do_not_fit():
    with pytest.raises(RecipeError, match="one number per octave"):
        registry.find("losses", "octave_kl").build(levels=2, weights=[1.0, 1.0])
    with pytest.raises(RecipeError, match="2 numbers"):
        registry.find("losses", "octave_kl").build(weights=[1.0])


@pytest.mark.parametrize(("grid", "levels"), [((5, 6), 3), ((3, 2), 2), ((40, 64), 4)])
def test_octave_kl_has_4_octaves_or_as_many_as_the_grid(grid, levels):
    student, teacher = logits_of(grid=grid)
    batch = batch_of(2, grid)
    default = value("octave_kl", student, teacher, batch, power=0.7)
    assert default == value("octave_kl", student, teacher, batch, power=0.7, levels=levels)
    weights = [2.0, 0.5, 1.0]
    by_weights = value("octave_kl", student, teacher, batch, weights=weights)
    assert by_weights == value("octave_kl", student, teacher, batch, weights=weights, levels=2)


# weights of cells


@pytest.mark.parametrize("name", ["logit_kl", "octave_kl", "dist", "cwd"])
def test_only_where_right_drops_labelled_cells_where_the_teacher_is_wrong(name):
    student, teacher = logits_of(1)
    student.requires_grad_()
    labels = teacher.argmax(1)
    labels[0, 0] = (labels[0, 0] + 1) % CLASSES  # the teacher is wrong in the first row
    labels[0, 1] = 255
    arguments = {"only_where_right": True} | ({"power": 0.0} if name == "octave_kl" else {})
    if name == "octave_kl":
        arguments["weights"] = [1.0, 0.0, 0.0, 0.0, 0.0]  # coarser octaves mix cells
    result = value(name, student, teacher, batch_of(1, labels=labels), **arguments)
    (gradient,) = torch.autograd.grad(result, student)
    if name == "logit_kl":
        assert not gradient[0, :, 0].any() and gradient[0, :, 1:].abs().amax(0).gt(0).all()
        plain = torch.autograd.grad(value(name, student, teacher, batch_of(1)), student)[0]
        torch.testing.assert_close(gradient[0, :, 1:], plain[0, :, 1:])
    unlabelled = value(name, student, teacher, batch_of(1), **arguments)
    weightless = {key: x for key, x in arguments.items() if key != "only_where_right"}
    assert unlabelled.item() == value(name, student, teacher, batch_of(1), **weightless).item()
    assert result.item() != unlabelled.item()


@pytest.mark.parametrize("name", ["logit_kl", "octave_kl", "dist", "cwd"])
def test_attention_changes_every_loss_of_class_scores_and_strength_0_none(name):
    student, teacher = logits_of()
    batch = batch_of(2)
    plain = float(value(name, student, teacher, batch))
    for attention in ("low", "high", "mix"):
        arguments = {"attention": attention, "cutoff": 0.5}
        none = value(name, student, teacher, batch, strength=0.0, **arguments)
        assert float(none) == pytest.approx(plain, rel=1e-12)
        assert float(value(name, student, teacher, batch, **arguments)) != pytest.approx(plain)


def test_mixed_attention_is_the_norm_of_the_mixed_filter():
    student, teacher = logits_of(1, (6, 8))
    p, q = probabilities(teacher), probabilities(student)
    rho = np.hypot(np.fft.fftfreq(6)[:, None], np.fft.fftfreq(8)[None]) / 0.5
    low = rho <= 0.5 + 1e-9
    gain = 0.75 * low + 0.25 * ~low
    a = np.sqrt((np.fft.ifft2(np.fft.fft2(p) * gain).real ** 2).sum(1))
    weights = (1 + 2.0 * a / a.mean()) / 3.0
    known = (weights * scipy.special.rel_entr(p, q).sum(1)).mean()
    arguments = {"attention": "mix", "high_share": 0.25, "mask": "ideal", "cutoff": 0.5}
    result = value("logit_kl", student, teacher, batch_of(1, (6, 8)), strength=2.0, **arguments)
    assert float(result) == pytest.approx(known, rel=1e-9)


WEIGHTINGS = [
    {},
    {"only_where_right": True},
    *({"attention": x, "cutoff": 0.5} for x in ("low", "high", "mix")),
    {"attention": "high", "cutoff": 0.5, "only_where_right": True},
]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", ["logit_kl", "octave_kl", "dist", "cwd"])
def test_a_student_equal_to_the_teacher_is_a_minimum_with_every_weighting(name, weighting):
    """cwd weighted the terms of a divergence, so it fell to -3.4 away from the teacher."""
    other, teacher = logits_of()
    labels = teacher.argmax(1)
    labels[:, 0] = (labels[:, 0] + 1) % CLASSES
    batch, student = batch_of(2, labels=labels), teacher.clone().requires_grad_()
    result = value(name, student, teacher, batch, **weighting)
    (gradient,) = torch.autograd.grad(result, student)
    assert result.item() == pytest.approx(0.0, abs=1e-7) and gradient.abs().max() < 1e-7
    for size in (0.01, 1.0):
        assert value(name, teacher + size * other, teacher, batch, **weighting) > result + 1e-7


@pytest.mark.parametrize("name", ["logit_kl", "dist", "cwd"])
def test_cells_where_the_teacher_is_wrong_have_no_gradient(name):
    student, teacher = logits_of()
    labels = teacher.argmax(1)
    labels[:, 0] = (labels[:, 0] + 1) % CLASSES
    batch, student = batch_of(2, labels=labels), student.requires_grad_()
    for weighting in ({}, {"attention": "high", "cutoff": 0.5}):
        result = value(name, student, teacher, batch, only_where_right=True, **weighting)
        (gradient,) = torch.autograd.grad(result, student)
        assert not gradient[:, :, 0].any() and gradient[:, :, 1:].any()


@pytest.mark.parametrize("name", ["logit_kl", "octave_kl", "dist", "cwd"])
def test_images_without_a_cell_that_counts_have_no_gradient(name):
    student, teacher = logits_of()
    labels = (teacher.argmax(1) + 1) % CLASSES
    student.requires_grad_()
    result = value(name, student, teacher, batch_of(2, labels=labels), only_where_right=True)
    (gradient,) = torch.autograd.grad(result, student)
    assert not gradient.any() and torch.isfinite(result)
    assert name == "dist" or result.item() == 0.0  # a correlation over no cell is 0


# weights of cells in every loss, from numpy


def low_pass(mask: str, cutoff: float) -> np.ndarray:
    rho = np.hypot(np.fft.fftfreq(GRID[0])[:, None], np.fft.fftfreq(GRID[1])[None]) / 0.5
    return {
        "gaussian": np.exp(-((rho / cutoff) ** 2) / 2),
        "ideal": (rho <= cutoff + 1e-9) * 1.0,
        "butterworth": 1 / (1 + (rho / cutoff) ** 4),
    }[mask]


def weights_of(teacher, batch: Batch, attention: str, mask: str, temperature: float) -> np.ndarray:
    """Weights of cells ``[B, h, w]`` with ``strength: 2`` and ``only_where_right``."""
    low, high = {"low": (1, 0), "high": (0, 1), "mix": (0.3, 0.7)}[attention]
    gain = low * low_pass(mask, 0.5) + high * (1 - low_pass(mask, 0.5))
    maps = np.fft.ifft2(np.fft.fft2(probabilities(teacher, temperature)) * gain).real
    a, inside = np.sqrt((maps**2).sum(1)), batch.valid.numpy()
    labels, classes = batch.labels.numpy(), teacher.numpy().argmax(1)
    mean = np.array([x[m].mean() for x, m in zip(a, inside, strict=True)])[:, None, None]
    wrong = (labels != 255) & (labels != classes)
    return np.where(inside & ~wrong, (1 + 2.0 * a / mean) / 3.0, 0.0)


def correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    covariance = np.cov(x, y, aweights=weights)
    return covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])


def known_dist(student, teacher, w: np.ndarray, inside: np.ndarray, over: str) -> float:
    """With ``beta: 1`` and ``gamma: 0.5``, of probabilities."""
    p, q = (np.moveaxis(probabilities(x, 2.0), 1, 0) for x in (student, teacher))
    pairs = zip(p.reshape(CLASSES, -1).T, q.reshape(CLASSES, -1).T, strict=True)
    each = np.array([1 - np.corrcoef(*pair)[0, 1] for pair in pairs]).reshape(inside.shape)
    parts = [slice(0, 2)] if over == "batch" else [slice(0, 1), slice(1, 2)]
    within = [
        np.mean([1 - correlation(p[k, i].ravel(), q[k, i].ravel(), w[i].ravel()) for k in range(4)])
        for i in parts
    ]
    cells = [inside[i].sum() for i in parts]
    return (w * each).sum() / inside.sum() + 0.5 * np.average(within, weights=cells)


def known_cwd(student, teacher, w: np.ndarray) -> float:
    """Of distributions with w times the mass."""
    total = 0.0
    for row in range(2):
        masses = [w[row] * np.exp(x[row].numpy() / 2.0) for x in (teacher, student)]
        p, q = (x.reshape(CLASSES, -1) / x.sum((1, 2))[:, None] for x in masses)
        total += scipy.special.rel_entr(p, q).sum()
    return total / (2 * CLASSES)


@pytest.mark.parametrize("mask", ["gaussian", "ideal", "butterworth"])
@pytest.mark.parametrize("attention", ["low", "high", "mix"])
def test_every_loss_of_class_scores_with_weights_of_cells_equals_numpy(attention, mask):
    """Labels that the teacher misses, void labels, padding and a temperature at once."""
    student, teacher = logits_of()
    valid = torch.ones(2, *GRID, dtype=torch.bool)
    valid[1, :, 4:] = False
    labels = teacher.argmax(1)
    labels[:, 1] = (labels[:, 1] + 1) % CLASSES
    labels[:, 2] = 255
    batch, inside = batch_of(2, labels=labels, valid=valid), valid.numpy()
    w = weights_of(teacher, batch, attention, mask, 2.0)
    p, q = probabilities(teacher, 2.0), probabilities(student, 2.0)
    parts = octaves(student / 2.0, teacher / 2.0, w, 2).sum(0) / inside.sum()
    wanted = [
        ("logit_kl", {}, (w * scipy.special.rel_entr(p, q).sum(1)).sum() / inside.sum()),
        ("octave_kl", {"levels": 2, "weights": [1.0, 2.0, 0.5]}, parts @ [1.0, 2.0, 0.5]),
        ("dist", {"gamma": 0.5}, known_dist(student, teacher, w, inside, "batch")),
        ("dist", {"gamma": 0.5, "over": "image"}, known_dist(student, teacher, w, inside, "image")),
        ("cwd", {}, known_cwd(student, teacher, w)),
    ]
    keys = {"attention": attention, "mask": mask, "cutoff": 0.5, "high_share": 0.7}
    keys |= {"strength": 2.0, "only_where_right": True, "temperature": 2.0}
    for name, more, known in wanted:
        result = value(name, student, teacher, batch, **keys, **more)
        assert float(result) == pytest.approx(4.0 * known, rel=1e-6), name
