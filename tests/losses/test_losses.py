"""Known answers of the losses beside ``band``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch
from torch.nn import functional as F

from freqkd_cli import registry
from freqkd_cli.errors import BandError, RecipeError, ShapeError
from freqkd_cli.features.adapter import Adapter
from freqkd_cli.features.taps import Tap
from freqkd_cli.spectral.fourier import radial
from freqkd_cli.views.batch import Batch

CLASSES = 4


def batch_of(labels: torch.Tensor, valid: torch.Tensor | None = None) -> Batch:
    number = len(labels)
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    return Batch(
        torch.zeros(number, 3, *labels.shape[-2:]),
        labels,
        valid,
        torch.arange(number),
        torch.zeros(number, dtype=torch.long),
    )


def start(name: str, channels=(3, 3), strides=(8, 8), **arguments):
    loss = registry.find("losses", name).build(**arguments)
    logits = [{"logits": Tap("logits", stride, CLASSES, "logits")} for stride in strides]
    loss.start(
        {"s": Tap("s", strides[0], channels[0])} | logits[0],
        {"t": Tap("t", strides[1], channels[1])} | logits[1],
        CLASSES,
    )
    return loss


def labels_of(*shape: int, seed: int = 0, void: float = 0.2) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        np.where(rng.random(shape) < void, 255, rng.integers(0, CLASSES, shape))
    )


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# cross_entropy


def nll(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """-log softmax of the labelled pixels, in numpy."""
    scores = (
        scipy.special.log_softmax(logits.double().numpy(), axis=1)
        .transpose(0, 2, 3, 1)
        .reshape(-1, CLASSES)
    )
    flat = labels.numpy().ravel()
    return -scores[flat != 255, flat[flat != 255]]


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    logits, labels = normal(2, CLASSES, 6, 8), labels_of(2, 6, 8)
    loss = start("cross_entropy")
    assert float(loss({"logits": logits}, {}, batch_of(labels), 0)) == pytest.approx(
        nll(logits, labels).mean()
    )


def test_cross_entropy_upsamples_as_the_score_does():
    logits, labels = normal(2, CLASSES, 3, 4), labels_of(2, 21, 30)
    big = F.interpolate(logits, size=(21, 30), mode="bilinear", align_corners=False)
    assert float(
        start("cross_entropy")({"logits": logits}, {}, batch_of(labels), 0)
    ) == pytest.approx(nll(big, labels).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_and_smoothing_are_torch_s(smoothing):
    logits, labels, weights = normal(2, CLASSES, 6, 8), labels_of(2, 6, 8), [0.5, 1.0, 2.0, 0.0]
    loss = start("cross_entropy", class_weights=weights, label_smoothing=smoothing)
    known = F.cross_entropy(
        logits,
        labels,
        weight=torch.tensor(weights).double(),
        ignore_index=255,
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(loss({"logits": logits}, {}, batch_of(labels), 0), known)


@pytest.mark.parametrize("more", [{}, {"ohem": 0.5}])
def test_smoothing_without_a_pixel_that_counts_gives_zero(more):
    """It was the sum over all pixels: thousands, where only background of weight 0 is seen."""
    logits = normal(2, CLASSES, 6, 8).requires_grad_(True)
    weights = [0.0, 1.0, 1.0, 1.0]
    loss = start("cross_entropy", class_weights=weights, label_smoothing=0.1, **more)
    value = loss({"logits": logits}, {}, batch_of(torch.zeros(2, 6, 8, dtype=torch.long)), 0)
    assert value.item() == 0.0
    assert not torch.autograd.grad(value, logits)[0].any()


def test_ohem_keeps_the_hardest_share():
    logits, labels = normal(2, CLASSES, 6, 8), labels_of(2, 6, 8)
    hardest = np.sort(nll(logits, labels))[::-1]
    loss = start("cross_entropy", ohem=0.25)
    assert float(loss({"logits": logits}, {}, batch_of(labels), 0)) == pytest.approx(
        hardest[: math.ceil(0.25 * len(hardest))].mean()
    )


def test_ohem_leaves_out_a_class_of_weight_0_as_if_it_were_void():
    """It is never learned, so all of the hardest pixels were its own: the loss was 0."""
    logits, labels = normal(2, CLASSES, 6, 8), labels_of(2, 6, 8)
    logits[:, 0] -= 100.0
    loss = start("cross_entropy", class_weights=[0.0, 1.0, 1.0, 1.0], ohem=0.25)
    without = labels.masked_fill(labels == 0, 255)
    known = start("cross_entropy", ohem=0.25)({"logits": logits}, {}, batch_of(without), 0)
    assert known > 0
    torch.testing.assert_close(loss({"logits": logits}, {}, batch_of(labels), 0), known)


def test_ohem_with_a_threshold_keeps_all_that_are_hard_and_never_fewer_than_the_share():
    logits, labels = normal(2, CLASSES, 6, 8), labels_of(2, 6, 8)
    every = nll(logits, labels)
    hard = every[every >= -math.log(0.4)]
    assert len(hard) > 0.1 * len(every)
    by_threshold, by_share = (
        start("cross_entropy", ohem=0.1, ohem_threshold=0.4),
        start("cross_entropy", ohem=0.5, ohem_threshold=0.01),
    )
    assert float(by_threshold({"logits": logits}, {}, batch_of(labels), 0)) == pytest.approx(
        hard.mean()
    )
    few = np.sort(every)[::-1][: math.ceil(0.5 * len(every))]
    assert float(by_share({"logits": logits}, {}, batch_of(labels), 0)) == pytest.approx(few.mean())


def test_ohem_threshold_alone_is_refused():
    with pytest.raises(RecipeError, match="needs ohem"):
        start("cross_entropy", ohem_threshold=0.7)


def test_auxiliary_heads_count_four_tenths_and_aliases_once():
    available = {
        "logits": Tap("logits", 8, CLASSES, "logits"),
        "aux1": Tap("aux1", 8, CLASSES, "auxiliary"),
        "aux2": Tap("aux2", 16, CLASSES, "auxiliary"),
        "again": Tap("again", 8, CLASSES, "auxiliary", alias="aux1"),
    }
    loss = start("cross_entropy")
    assert loss.student_taps(available) == ("logits", "aux1", "aux2")
    assert start("cross_entropy", auxiliary=0.0).student_taps(available) == ("logits",)
    labels = labels_of(2, 6, 8)
    heads = {
        "logits": normal(2, CLASSES, 6, 8),
        "aux1": normal(2, CLASSES, 6, 8, seed=1),
        "aux2": normal(2, CLASSES, 6, 8, seed=2),
    }
    known = nll(heads["logits"], labels).mean() + 0.4 * (
        nll(heads["aux1"], labels).mean() + nll(heads["aux2"], labels).mean()
    )
    assert float(loss(heads, {}, batch_of(labels), 0)) == pytest.approx(known)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"ohem": 0.25}, {"ohem": 0.25, "ohem_threshold": 0.7}, {"class_weights": [0.0] * CLASSES}],
)
def test_all_void_batches_give_zero_and_no_gradient(arguments):
    logits = normal(2, CLASSES, 3, 4).requires_grad_(True)
    result = start("cross_entropy", **arguments)(
        {"logits": logits}, {}, batch_of(torch.full((2, 24, 32), 255)), 0
    )
    result.backward()
    assert result.item() == 0.0 and not logits.grad.any()


def test_wrong_number_of_class_weights_and_missing_labels_are_refused():
    with pytest.raises(RecipeError, match="another length"):
        start("cross_entropy", class_weights=[1.0])
    unlabelled = Batch(
        torch.zeros(1, 3, 8, 8),
        None,
        torch.ones(1, 8, 8, dtype=torch.bool),
        torch.zeros(1),
        torch.zeros(1),
    )
    with pytest.raises(RecipeError, match="needs labels"):
        start("cross_entropy")({"logits": normal(1, CLASSES, 1, 1)}, {}, unlabelled, 0)


# logit_kl


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logit_kl_is_scipy_s_relative_entropy_over_cells_inside_the_image(temperature):
    student, teacher = normal(2, CLASSES, 3, 4), normal(2, CLASSES, 3, 4, seed=1)
    valid = torch.ones(2, 24, 32, dtype=torch.bool)
    valid[1, :, 16:] = False
    batch = batch_of(torch.full((2, 24, 32), 255), valid)  # void labels count
    loss = start("logit_kl", temperature=temperature)
    result = loss(
        {"logits": student}, loss.target({"logits": teacher}, batch, {"logits": (3, 4)}), batch, 0
    )
    p, q = (scipy.special.softmax(z.numpy() / temperature, axis=1) for z in (teacher, student))
    cells = scipy.special.rel_entr(p, q).sum(1)
    assert float(result) == pytest.approx(
        temperature**2 * np.concatenate([cells[0].ravel(), cells[1, :, :2].ravel()]).mean()
    )


def test_logit_kl_brings_the_teacher_to_the_student_s_grid():
    teacher = normal(2, CLASSES, 12, 16)
    batch = batch_of(labels_of(2, 48, 64))
    target = start("logit_kl", grid="student").target(
        {"logits": teacher}, batch, {"logits": (6, 8)}
    )["logits"]
    known = F.interpolate(teacher, size=(6, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(target, known)
    bigger = start("logit_kl", grid="student").target(
        {"logits": teacher}, batch, {"logits": (24, 32)}
    )["logits"]
    torch.testing.assert_close(
        bigger, F.interpolate(teacher, size=(24, 32), mode="bilinear", align_corners=False)
    )


def test_logit_kl_brings_the_student_to_the_teacher_s_grid():
    student, teacher = normal(2, CLASSES, 6, 8), normal(2, CLASSES, 12, 16, seed=1)
    valid = torch.ones(2, 48, 64, dtype=torch.bool)
    valid[1, 36:] = False
    batch, loss = batch_of(labels_of(2, 48, 64), valid), start("logit_kl", strides=(8, 4))
    target = loss.target({"logits": teacher}, batch, {"logits": (6, 8)})
    assert (
        target["logits"].equal(teacher)
        and loss.count(batch, {"logits": (6, 8)}) == 12 * 16 + 9 * 16
    )
    p = scipy.special.softmax(teacher.numpy(), axis=1)
    q = scipy.special.softmax(
        F.interpolate(student, size=(12, 16), mode="bilinear", align_corners=False).numpy(), axis=1
    )
    cells = scipy.special.rel_entr(p, q).sum(1)
    assert float(loss({"logits": student}, target, batch, 0)) == pytest.approx(
        np.concatenate([cells[0].ravel(), cells[1, :9].ravel()]).mean()
    )


def test_logit_kl_of_a_batch_that_is_all_padding_is_zero():
    batch = batch_of(torch.full((1, 24, 32), 255), torch.zeros(1, 24, 32, dtype=torch.bool))
    assert (
        float(
            start("logit_kl")(
                {"logits": normal(1, CLASSES, 3, 4)},
                {"logits": normal(1, CLASSES, 3, 4, seed=1)},
                batch,
                0,
            )
        )
        == 0.0
    )


def test_logit_kl_refuses_other_classes():
    with pytest.raises(ShapeError, match="logits differ"):
        start("logit_kl")(
            {"logits": normal(1, CLASSES, 3, 4)},
            {"logits": normal(1, 7, 3, 4)},
            batch_of(labels_of(1, 24, 32)),
            0,
        )


# feature, attention


def run(loss, student: torch.Tensor, teacher: torch.Tensor, image=(48, 64)) -> torch.Tensor:
    batch = batch_of(torch.zeros(len(student), *image, dtype=torch.long))
    return loss(
        {"s": student},
        loss.target({"t": teacher}, batch, {"s": tuple(student.shape[-2:])}),
        batch,
        0,
    ).detach()


def standardised(x: torch.Tensor) -> torch.Tensor:
    variance = x.var((2, 3), keepdim=True, correction=0)
    least = 0.01 * variance.mean(1, keepdim=True)
    return (x - x.mean((2, 3), keepdim=True)) / torch.maximum(variance, least).sqrt()


@pytest.mark.parametrize("distance", ["relative", "mse"])
@pytest.mark.parametrize("normalize", ["channel", "none"])
def test_feature_is_the_squared_error_of_adapted_standardised_maps(normalize, distance):
    student, teacher = normal(2, 3, 6, 8) + 2.0, normal(2, 5, 6, 8, seed=1) - 1.0
    loss = start(
        "feature", (3, 5), student="s", teacher="t", distance=distance, normalize=normalize
    )
    adapted = torch.einsum("oc,bchw->bohw", loss.adapter.weight.detach().double(), student)
    a, b = (
        (standardised(adapted), standardised(teacher))
        if normalize == "channel"
        else (adapted, teacher)
    )
    error = (a - b).square().sum((1, 2, 3))
    known = (
        (error / b.square().sum((1, 2, 3)) / (1 + 1e-6)).mean()
        if distance == "relative"
        else error.mean() / (5 * 48)
    )
    torch.testing.assert_close(run(loss, student, teacher), known)


def test_one_minus_half_the_standardised_error_is_pearson_s_correlation():
    student, teacher = normal(1, 1, 6, 8), normal(1, 1, 6, 8, seed=1)
    loss = start("feature", (1, 1), student="s", teacher="t", distance="mse", adapter=False)
    pearson = np.corrcoef(student.numpy().ravel(), teacher.numpy().ravel())[0, 1]
    assert 1 - float(run(loss, student, teacher)) / 2 == pytest.approx(pearson, abs=1e-5)


@pytest.mark.parametrize(("reduce", "scale"), [("mean", 1 / 48), ("sum", 1.0)])
def test_attention_of_disjoint_maps_is_at_its_largest(reduce, scale):
    student, teacher = torch.zeros(1, 3, 6, 8), torch.zeros(1, 5, 6, 8)
    student[:, :, :3], teacher[:, :, 3:] = 2.0, 7.0
    loss = start("attention", (3, 5), student="s", teacher="t", reduce=reduce)
    assert float(run(loss, student, teacher)) == pytest.approx(2.0 * scale)


def test_attention_is_blind_to_scale_sign_and_order_of_channels():
    teacher = normal(2, 5, 6, 8)
    loss = start("attention", (5, 5), student="s", teacher="t")
    assert float(run(loss, -3.0 * teacher.flip(1), teacher)) == pytest.approx(0.0, abs=1e-12)


# fam


def fam(channels=(2, 3), **arguments):
    loss = start("fam", channels, student="s", teacher="t", **arguments)
    return loss, loss.module


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (6, 8), (23, 30)])
def test_fam_starts_as_half_local_and_half_the_high_pass(size):
    _, module = fam(cutoff=0.3)
    x = normal(2, 2, *size)
    mixed = torch.einsum("oc,bchw->bohw", module.mix.weight.detach().double(), x)
    rho = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])) / 0.5
    high = np.fft.ifft2(np.fft.fft2(mixed.numpy()) * (rho > 0.3)).real
    local = F.conv2d(x, module.local.weight.double(), module.local.bias.double())
    torch.testing.assert_close(
        module(x), 0.5 * local + 0.5 * torch.from_numpy(high), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("cutoff", [0.3, 0.6, 0.7])
def test_fam_removes_the_bins_at_its_cutoff_as_an_ideal_mask_does(cutoff):
    """Rounding put 0.3 above 0.3 on a grid of 15 x 20."""
    kept = fam((1, 1), cutoff=cutoff)[1].gains(15, 20, normal(1)).detach() != 0
    at_cutoff = torch.from_numpy(np.abs(radial(15, 20) - cutoff) < 1e-12)
    assert at_cutoff.any() and not kept[0][at_cutoff].any()


@pytest.mark.parametrize("band", ["low", "high", "all"])
def test_fam_starts_as_the_band_that_the_recipe_names(band):
    _, module = fam((1, 1), band=band, cutoff=0.0)
    gains = module.gains(32, 32, normal(1)).detach()
    rho = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)) / 0.5
    low = np.exp(-((rho / 0.25) ** 2) / 2)
    known = {"low": low, "high": 1 - low, "all": np.ones_like(low)}[band]
    # The grid of 17 x 9 points holds a step of 2 bins; between them it is interpolated.
    np.testing.assert_allclose(gains.real[0].numpy()[::2, ::2], known[::2, ::2], atol=1e-6)
    assert not gains.imag.any() and fam(band=band)[1].shape.cutoff == (band != "low") * 0.1


@pytest.mark.parametrize("size", [(5, 7), (6, 8), (6, 7), (4, 2)])
def test_fam_applies_a_real_kernel_whatever_it_learns(size):
    _, module = fam((1, 1), cutoff=0.0)
    with torch.no_grad():
        module.filter.normal_(generator=torch.Generator().manual_seed(0))
        module.mix.weight.fill_(1.0)
    gains = module.gains(*size, normal(1)).detach()
    kernel = torch.fft.irfft2(gains, s=size)
    torch.testing.assert_close(
        torch.fft.rfft2(kernel), gains, atol=1e-12, rtol=0
    )  # nothing of the filter is dropped in silence


def test_fam_reads_its_coarse_grid_at_dc_and_nyquist():
    _, module = fam((1, 1), cutoff=0.0, grid=(5, 3))
    with torch.no_grad():
        module.filter.zero_()
        module.filter[0, 0] = torch.arange(15.0).view(5, 3)
    gains = module.gains(8, 8, normal(1)).real[0]
    assert gains[0, 0] == 6.0  # middle row, first column
    assert gains[0, 4] == 8.0  # middle row, last column
    assert gains[2, 2] == 10.0  # rows run to +Nyquist: half-way up, half-way right


def test_fam_learns_and_only_in_its_own_module():
    loss, module = fam((2, 3), output="norm_relu", normalize="none")
    result = loss(
        {"s": normal(2, 2, 6, 8).float()},
        {"map": normal(2, 3, 48).float()},
        batch_of(labels_of(2, 48, 64)),
        0,
    )
    result.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    assert module.filter.grad.abs().max() > 0


# adapter


def test_adapter_is_a_convolution_and_knows_its_variance():
    adapter, x = Adapter(3, 5), normal(2, 3, 6, 8)
    x = x - x.mean((2, 3), keepdim=True)
    known = F.conv2d(x, adapter.weight.double()[:, :, None, None])
    torch.testing.assert_close(adapter(x), known)
    covariance = torch.einsum("bchw,bdhw->bcd", x, x) / 48
    torch.testing.assert_close(adapter.variance(covariance), known.var((2, 3), correction=0))
    torch.manual_seed(0)
    assert Adapter(64, 512).weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.05)


def test_cross_entropy_of_images_without_labels_is_left_out():
    logits, labels = normal(4, CLASSES, 6, 8).requires_grad_(True), labels_of(4, 12, 16)
    labels[0], labels[2] = 255, 255
    value = start("cross_entropy")({"logits": logits}, {}, batch_of(labels), 0)
    known = F.cross_entropy(
        F.interpolate(logits, size=(12, 16), mode="bilinear", align_corners=False),
        labels,
        ignore_index=255,
    )
    assert value.item() == pytest.approx(known.item())
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(known, logits)[0])
    assert not gradient[0].any() and gradient[1].any()


@pytest.mark.parametrize(("attention", "strength"), [("high", 4.0), ("low", 1.0)])
def test_logit_kl_weighs_cells_by_one_band_of_the_teacher_s_probabilities(attention, strength):
    ours, theirs = normal(2, CLASSES, 6, 8), normal(2, CLASSES, 6, 8, seed=1)
    valid = torch.ones(2, 48, 64, dtype=torch.bool)
    valid[1, :, 32:] = False
    batch = batch_of(torch.full((2, 48, 64), 255), valid)
    options = {"attention": attention, "strength": strength, "cutoff": 0.5, "temperature": 2.0}
    loss = start("logit_kl", **options)
    result = loss(
        {"logits": ours}, loss.target({"logits": theirs}, batch, {"logits": (6, 8)}), batch, 0
    )

    p, q = (scipy.special.softmax(z.numpy() / 2.0, axis=1) for z in (theirs, ours))
    rho = np.hypot(np.fft.fftfreq(6)[:, None], np.fft.fftfreq(8)[None]) / 0.5
    low = np.fft.ifft2(np.fft.fft2(p) * np.exp(-((rho / 0.5) ** 2) / 2)).real
    strengths = np.sqrt(((low if attention == "low" else p - low) ** 2).sum(1))
    total = 0.0
    for row, columns in ((0, 8), (1, 4)):
        seen = strengths[row, :, :columns]
        weights = (1 + strength * seen / seen.mean()) / (1 + strength)
        assert weights.mean() == pytest.approx(1.0)
        total += (weights * scipy.special.rel_entr(p, q).sum(1)[row, :, :columns]).sum()
    assert float(result) == pytest.approx(4.0 * total / (6 * 8 + 6 * 4), rel=1e-6)


def test_logit_kl_with_attention_of_strength_0_or_on_a_constant_prediction_is_plain():
    ours, batch = normal(2, CLASSES, 6, 8), batch_of(labels_of(2, 48, 64))
    constant = normal(2, CLASSES, 1, 1, seed=1).expand(2, CLASSES, 6, 8)
    for theirs, strength in ((normal(2, CLASSES, 6, 8, seed=1), 0.0), (constant, 4.0)):
        plain, weighted = start("logit_kl"), start("logit_kl", attention="high", strength=strength)
        values = [
            loss(
                {"logits": ours},
                loss.target({"logits": theirs}, batch, {"logits": (6, 8)}),
                batch,
                0,
            )
            for loss in (plain, weighted)
        ]
        torch.testing.assert_close(*values)


def test_logit_kl_with_attention_refuses_an_empty_band_and_names_what_its_target_depends_on():
    loss = start("logit_kl", attention="high", cutoff=0.001)
    with pytest.raises(BandError, match="the low band of the teacher's logits is empty"):
        loss.check_grids({"logits": (6, 8)}, {"logits": (6, 8)})
    assert start("logit_kl").target_arguments == ("grid",)
    assert set(loss.target_arguments) == {"grid", "attention", "cutoff", "temperature"}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("af_dcd", {"feature_weight": 0.0, "contrast_weight": 0.0}),
        ("bpkd", {"body": 0.0, "edge": 0.0}),
        ("dist", {"beta": 0.0, "gamma": 0.0}),
    ],
)
def test_a_loss_without_a_part_that_counts_is_refused(name, weights):
    build = registry.find("losses", name).build
    taps = {} if name != "af_dcd" else {"student": "s", "teacher": "t"}
    with pytest.raises(RecipeError, match=f"{name}: no part has a weight"):
        build(**taps, **weights)
    build(**taps, **dict(list(weights.items())[:1]) | {list(weights)[1]: 1.0})
