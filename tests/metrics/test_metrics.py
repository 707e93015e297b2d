"""Metrics against a plain numpy count, scikit-learn, torchmetrics and scipy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.ndimage
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from freqkd_cli.errors import ShapeError
from freqkd_cli.metrics._boundary_region import boundary_region, distance
from freqkd_cli.metrics._confusion import BoundaryConfusion, Confusion
from freqkd_cli.score.tally import Tally


def split(
    classes: int, sizes: list[tuple[int, int]], seed: int = 0, used: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predictions that are right for two pixels of three, and labels with void.

    Only the first ``used`` classes occur.
    """
    rng = np.random.default_rng(seed)
    images = []
    for size in sizes:
        labels = rng.integers(0, used or classes, size)
        prediction = np.where(
            rng.random(size) < 0.67, labels, rng.integers(0, used or classes, size)
        )
        labels[rng.random(size) < 0.1] = 255
        images.append((prediction, labels))
    return images


def counted(images: list[tuple[np.ndarray, np.ndarray]], classes: int) -> Tally:
    tally = Tally(classes, cheap=True)
    for prediction, labels in images:
        tally.add(torch.from_numpy(prediction), torch.from_numpy(labels))
    return tally


def matrix_of(tally: Tally) -> torch.Tensor:
    return tally.metrics["iou"].counts.matrix


def by_hand(images: list[tuple[np.ndarray, np.ndarray]], classes: int) -> list[float | None]:
    """IoU of every class from sets of pixels, image by image."""
    ious: list[float | None] = []
    for k in range(classes):
        inter = union = 0
        for prediction, labels in images:
            predicted, labelled = (prediction == k) & (labels != 255), labels == k
            inter += int((predicted & labelled).sum())
            union += int((predicted | labelled).sum())
        ious.append(inter / union if union else None)
    return ious


CASES = {
    "all classes": (7, [(13, 17), (30, 1), (9, 9)], None),
    "absent classes": (11, [(13, 17), (8, 5)], 4),
    "two classes": (2, [(33, 47)], None),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_numpy_and_sklearn(case):
    classes, sizes, used = CASES[case]
    images = [*split(classes, sizes, used=used), (np.zeros((5, 4), int), np.full((5, 4), 255))]
    tally, expected = counted(images, classes), by_hand(images, classes)
    values, per_class = tally.values(), tally.per_class()
    assert per_class["iou"] == pytest.approx(expected, abs=1e-15)
    assert values["miou"] == pytest.approx(np.mean([iou for iou in expected if iou is not None]))
    absent = [k for k, iou in enumerate(per_class["iou"]) if iou is None]
    assert absent == list(range(used or classes, classes))

    prediction, labels = (np.concatenate([x[part].ravel() for x in images]) for part in (0, 1))
    prediction, labels = prediction[labels != 255], labels[labels != 255]
    reference = confusion_matrix(labels, prediction, labels=range(classes))
    np.testing.assert_array_equal(matrix_of(tally).numpy(), reference)
    present = sorted(set(prediction) | set(labels))
    macro = jaccard_score(labels, prediction, average="macro", labels=present)
    assert values["miou"] == pytest.approx(macro)
    assert values["pixel_accuracy"] == pytest.approx((prediction == labels).mean())
    recalls = [(prediction[labels == k] == k).mean() for k in np.unique(labels)]
    assert values["mean_accuracy"] == pytest.approx(np.mean(recalls))
    assert matrix_of(tally).sum() == labels.size


def test_scores_equal_torchmetrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    images = split(9, [(21, 34), (21, 34)], seed=3, used=6)
    references = {
        "miou": MulticlassJaccardIndex(9, ignore_index=255, average="macro"),
        "pixel_accuracy": MulticlassAccuracy(9, ignore_index=255, average="micro"),
        "mean_accuracy": MulticlassAccuracy(9, ignore_index=255, average="macro"),
    }
    values = counted(images, 9).values()
    for name, reference in references.items():
        for prediction, labels in images:
            reference.update(torch.from_numpy(prediction), torch.from_numpy(labels))
        assert values[name] == pytest.approx(float(reference.compute()), abs=1e-6), name


def test_a_class_that_is_only_predicted_counts_zero_and_an_absent_class_does_not_count():
    labels, prediction = torch.tensor([[0, 0, 1, 255]]), torch.tensor([[0, 2, 1, 3]])
    tally = Tally(5, cheap=True).add(prediction, labels)
    values, per_class = tally.values(), tally.per_class()
    assert per_class["iou"] == [0.5, 1.0, 0.0, None, None] and values["miou"] == 0.5
    assert per_class["accuracy"] == [0.5, 1.0, None, None, None]
    assert values["mean_accuracy"] == 0.75


def test_counts_are_exact_and_small_types_do_not_overflow():
    labels = torch.full((300, 300), 2, dtype=torch.uint8)
    tally = Tally(200, cheap=True).add(labels, labels).add(torch.full_like(labels, 199), labels)
    matrix = matrix_of(tally)
    assert matrix[2, 2] == 90_000 and matrix[2, 199] == 90_000
    assert matrix.sum() == 180_000 and matrix.dtype == torch.int64


@pytest.mark.parametrize(
    ("prediction", "labels"), [([[3]], [[0]]), ([[0]], [[3]]), ([[-1]], [[0]]), ([[0, 0]], [[0]])]
)
def test_numbers_outside_the_classes_are_refused(prediction, labels):
    for cheap in (True, False):
        with pytest.raises(ShapeError):
            Tally(3, cheap=cheap).add(torch.tensor(prediction), torch.tensor(labels))


# --- boundary IoU


def eroded_away(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The authors' boundary region: the mask without its erosions by a 3x3 square."""
    framed = np.pad(mask, 1)
    return (
        mask & ~scipy.ndimage.binary_erosion(framed, np.ones((3, 3)), iterations=pixels)[1:-1, 1:-1]
    )


def blobs(classes: int, size: tuple[int, int], seed: int, void: bool = True) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(classes, *size))
    labels = np.argmax(scipy.ndimage.gaussian_filter(noise, (0, 4, 4)), 0)
    if void:
        labels[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 2] = 255
    return labels


@pytest.mark.parametrize("pixels", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("size", [(45, 61), (32, 32), (1, 9)])
def test_boundary_region_equals_scipy_erosion(pixels, size):
    labels = blobs(4, size, seed=pixels)
    region = boundary_region(torch.from_numpy(labels), pixels).numpy()
    for k in range(4):
        np.testing.assert_array_equal(region & (labels == k), eroded_away(labels == k, pixels))


def boundary_of(tally: Tally) -> tuple[float | None, list[float | None]]:
    return tally.values()["boundary_iou"], tally.per_class()["boundary_iou"]


def test_boundary_iou_equals_a_sum_over_masks():
    sizes, tally = [(60, 80), (75, 51), (60, 80)], Tally(5)
    inter, union = np.zeros(5), np.zeros(5)
    for seed, size in enumerate(sizes):
        labels, prediction = blobs(4, size, seed), blobs(4, size, seed, void=False)
        prediction = np.roll(prediction, 1 + seed, axis=1)
        tally.add(torch.from_numpy(prediction), torch.from_numpy(labels))
        pixels = max(1, int(round(0.02 * np.hypot(*size))))
        for k in range(5):
            a = eroded_away((prediction == k) & (labels != 255), pixels)
            b = eroded_away(labels == k, pixels)
            inter[k] += (a & b).sum()
            union[k] += (a | b).sum()
    expected = [i / u if u else None for i, u in zip(inter, union, strict=True)]
    mean, per_class = boundary_of(tally)
    assert expected[4] is None and per_class == pytest.approx(expected)
    assert mean == pytest.approx(np.mean(expected[:4])) and 0.1 < mean < 0.9


def test_boundary_iou_known_answers():
    labels = torch.zeros(100, 100, dtype=torch.int64)
    labels[20:80, 20:80] = 1
    perfect = Tally(3).add(labels, labels)
    assert boundary_of(perfect) == (1.0, [1.0, 1.0, None])
    table = perfect.metrics["boundary"].table
    assert distance(100, 100) == 3 and int(table[3, 1, 1]) == 60**2 - 54**2
    # A shift by one pixel changes the IoU of a large square a little, and that of its outline much.
    shifted = Tally(3).add(labels.roll(1, 1), labels).values()
    assert shifted["boundary_iou"] < 0.85 < 0.95 < shifted["miou"]


def test_images_of_another_rank_are_refused():
    with pytest.raises(ShapeError):
        Tally(3).add(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))


def test_boundary_iou_takes_stacks_of_one_size():
    pairs = [
        (
            torch.from_numpy(blobs(3, (30, 40), s, False)),
            torch.from_numpy(blobs(3, (30, 40), s + 1)),
        )
        for s in (0, 5)
    ]
    single, stacked = Tally(3), Tally(3)
    for prediction, labels in pairs:
        single.add(prediction, labels)
    stacked.add(
        torch.stack([p for p, _ in pairs]), torch.stack([t for _, t in pairs]).to(torch.uint8)
    )
    assert boundary_of(single) == boundary_of(stacked)
    assert torch.equal(single.counts[0].table, stacked.counts[0].table)


def test_boundary_iou_equals_the_code_of_its_authors():
    """Sums of ``mask_to_boundary`` of bowenc0221/boundary-iou-api, run on the same masks.

    File boundary_iou/utils/boundary_utils.py at 37d25586a677b043ed585f10e5c42d4e80176ea9.
    """
    tally = Tally(5)
    for seed, size in enumerate([(60, 80), (75, 51), (60, 80), (200, 300)]):
        labels = blobs(4, size, seed, void=False)
        prediction = np.roll(labels, 1 + seed, axis=1)
        tally.add(torch.from_numpy(prediction), torch.from_numpy(labels))
    inside, union = (11200, 10971, 11434, 8624), (24661, 24556, 25366, 21323)
    expected = [i / u for i, u in zip(inside, union, strict=True)]
    mean, per_class = boundary_of(tally)
    assert per_class == [*expected, None] and mean == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("kind", [Confusion, BoundaryConfusion])
def test_a_gpus_way_of_counting_gives_the_same_matrix_and_finds_wrong_labels_at_the_end(kind):
    torch.manual_seed(0)
    labels, prediction = torch.randint(0, 5, (2, 2, 30, 40))
    labels[0, :5] = 255
    true, counts = kind(5), kind(5)
    true.add(prediction, labels)
    counts._add_there(prediction, labels)
    counts.to("cpu")
    assert torch.equal(counts.table, true.table)
    counts._add_there(prediction, torch.full_like(labels, 7))
    more = kind(5)
    more.join(counts)
    with pytest.raises(ShapeError, match="outside the classes"):
        more.to("cpu")
