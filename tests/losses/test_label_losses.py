"""Known answers of focal, dice and lovasz: numpy, scikit-learn, torch, and the definitions."""

from __future__ import annotations

import dataclasses
import itertools

import label_loss_references as reference
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score
from torch.nn import functional as F

from freqkd_cli import registry
from freqkd_cli.errors import RecipeError
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses.lovasz import extension
from freqkd_cli.views.batch import Batch

CLASSES = 4
NAMES = ("focal", "dice", "lovasz")


def batch_of(labels: torch.Tensor | None, number: int = 2) -> Batch:
    size = (8, 8) if labels is None else labels.shape[-2:]
    return Batch(
        torch.zeros(number, 3, *size),
        labels,
        torch.ones(number, *size, dtype=torch.bool),
        torch.arange(number),
        torch.zeros(number, dtype=torch.long),
    )


def value(name: str, logits: torch.Tensor, labels: torch.Tensor, **arguments) -> float:
    loss = registry.find("losses", name).build(**arguments)
    loss.start({"logits": Tap("logits", 8, CLASSES, "logits")}, {}, CLASSES)
    return float(loss({"logits": logits}, {}, batch_of(labels, len(labels)), 0))


def sample(seed: int = 0, void: float = 0.2, images: int = 2, absent: int | None = None):
    """Logits and labels of 6x8 pixels, without the class ``absent``."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((images, CLASSES, 6, 8)) * 2
    labels = rng.integers(0, CLASSES, (images, 6, 8))
    labels[labels == absent] = 0
    labels[rng.random(labels.shape) < void] = 255
    return torch.from_numpy(logits), torch.from_numpy(labels)


def hard(labels: torch.Tensor, seed: int = 1) -> tuple[torch.Tensor, np.ndarray]:
    """Logits of a certain prediction, and the predicted classes."""
    predicted = np.random.default_rng(seed).integers(0, CLASSES, labels.shape)
    one_hot = F.one_hot(torch.from_numpy(predicted), CLASSES).movedim(-1, 1).double()
    return 200 * one_hot, predicted


# focal


def test_focal_with_gamma_0_is_cross_entropy():
    logits, labels = sample()
    for weights in (None, [0.5, 1.0, 2.0, 0.0]):
        known = value("cross_entropy", logits, labels, class_weights=weights)
        assert value("focal", logits, labels, gamma=0.0, class_weights=weights) == pytest.approx(
            known, rel=1e-14
        )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.0]])
def test_focal_is_its_formula(gamma, weights):
    logits, labels = sample()
    known = reference.focal(logits.numpy(), labels.numpy(), gamma, weights)
    assert value("focal", logits, labels, gamma=gamma, class_weights=weights) == pytest.approx(
        known, rel=1e-12
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_certain_predictions_has_a_finite_gradient(gamma):
    _, labels = sample(void=0)
    logits = hard(labels)[0].float().requires_grad_(True)
    loss = registry.find("losses", "focal").build(gamma=gamma)
    loss({"logits": logits}, {}, batch_of(labels), 0).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.any()


# dice


@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_is_its_formula_without_void_pixels(classes, smooth):
    logits, labels = sample(absent=2)
    known = reference.dice(
        logits.numpy(), labels.numpy(), smooth=smooth, present=classes == "present"
    )
    assert value("dice", logits, labels, classes=classes, smooth=smooth) == pytest.approx(
        known, rel=1e-12
    )


def test_dice_of_hard_predictions_is_one_minus_the_f1_of_scikit_learn():
    _, labels = sample(absent=2)
    logits, predicted = hard(labels)
    kept = labels.numpy() != 255
    present = [0, 1, 3]
    known = f1_score(labels.numpy()[kept], predicted[kept], labels=present, average="macro")
    assert value("dice", logits, labels) == pytest.approx(1 - known, rel=1e-9)


# lovasz


def test_the_extension_of_few_pixels_is_the_largest_over_all_orders():
    """The extension of a submodular function is its largest sum over the orders of the pixels."""
    rng = np.random.default_rng(0)
    for of_class in itertools.product([False, True], repeat=5):
        truth = np.array(of_class)
        errors = rng.random(5)

        def by_order(order, truth=truth, errors=errors):
            wrong, total, before = np.zeros(5, bool), 0.0, 0.0
            for pixel in order:
                wrong[pixel] = True
                after = reference.jaccard_loss(wrong, truth)
                total, before = total + errors[pixel] * (after - before), after
            return total

        known = max(by_order(order) for order in itertools.permutations(range(5)))
        shares = torch.from_numpy(np.where(truth, 1 - errors, errors))
        assert float(extension(shares, torch.from_numpy(truth))) == pytest.approx(known)


@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_is_the_integral_of_the_jaccard_loss_over_thresholds(classes):
    logits, labels = sample(absent=2)
    known = reference.lovasz(logits.numpy(), labels.numpy(), present=classes == "present")
    assert value("lovasz", logits, labels, classes=classes) == pytest.approx(known, rel=1e-12)


def test_lovasz_of_hard_predictions_is_one_minus_the_iou_of_scikit_learn():
    _, labels = sample(absent=2)
    logits, predicted = hard(labels)
    kept = labels.numpy() != 255
    known = jaccard_score(labels.numpy()[kept], predicted[kept], labels=[0, 1, 3], average="macro")
    assert value("lovasz", logits, labels) == pytest.approx(1 - known, rel=1e-9)


def test_lovasz_keeps_its_accuracy_in_float32_on_many_pixels():
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.random(3_000_000) < 0.3)
    shares = torch.from_numpy(rng.random(3_000_000))
    wide = float(extension(shares, truth))
    assert float(extension(shares.float(), truth)) == pytest.approx(wide, rel=1e-5)


# all of them


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_per_image_is_the_mean_over_the_images_with_labels(name):
    logits, labels = sample(images=3)
    labels[1] = 255
    known = np.mean([value(name, logits[[i]], labels[[i]]) for i in (0, 2)])
    assert value(name, logits, labels, per_image=True) == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_void_pixels_have_no_gradient(name):
    logits, labels = sample()
    logits.requires_grad_(True)
    loss = registry.find("losses", name).build()
    loss({"logits": logits}, {}, batch_of(labels), 0).backward()
    void = (labels == 255).unsqueeze(1).expand_as(logits)
    assert not logits.grad[void].any() and logits.grad[~void].any()


@pytest.mark.parametrize("name", ["cross_entropy", *NAMES])
def test_class_255_counts_where_void_has_another_label(name):
    """More than 255 classes: the losses of permuted classes are equal."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((2, 258, 6, 8)))
    labels = torch.from_numpy(rng.choice([1, 3, 65535], (2, 6, 8)))
    moved, other = logits.clone(), labels.clone()
    moved[:, 255], moved[:, 3] = logits[:, 3], logits[:, 255]
    other[labels == 3] = 255
    loss = registry.find("losses", name).build()
    batches = (dataclasses.replace(batch_of(each), ignore=65535) for each in (labels, other))
    values = [
        float(loss({"logits": z}, {}, batch, 0))
        for z, batch in zip((logits, moved), batches, strict=True)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12) and values[0] > 0


@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("name", ["dice", "lovasz"])
@pytest.mark.parametrize("per_image", [False, True])
def test_a_batch_without_a_label_gives_zero_and_no_gradient(name, classes, per_image):
    logits = sample()[0].requires_grad_(True)
    loss = registry.find("losses", name).build(classes=classes, per_image=per_image)
    result = loss({"logits": logits}, {}, batch_of(torch.full((2, 6, 8), 255)), 0)
    result.backward()
    assert result.item() == 0.0 and not logits.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_heads_are_added_and_images_without_masks_are_refused(name):
    logits, labels = sample()
    other = sample(seed=7)[0]
    loss = registry.find("losses", name).build(auxiliary=0.3)
    both = float(loss({"logits": logits, "aux1": other}, {}, batch_of(labels), 0))
    known = value(name, logits, labels) + 0.3 * value(name, other, labels)
    assert both == pytest.approx(known, rel=1e-12)
    with pytest.raises(RecipeError, match=f"{name} needs labels"):
        loss({"logits": logits}, {}, batch_of(None), 0)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_a_rule_of_class_weights_needs_the_labels_of_a_run(name):
    with pytest.raises(RecipeError, match="class_weights auto is a rule"):
        value(name, *sample(), class_weights="auto")
