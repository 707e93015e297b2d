"""Scores against a plain numpy count, scikit-learn, torchmetrics, Pillow and scipy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score

from freqkd_cli.errors import FreqKDError, ShapeError
from freqkd_cli.metrics.boundary import boundary_region, distance
from freqkd_cli.score.scores import scores
from freqkd_cli.score.tally import Tally
from freqkd_cli.views.upsample import predict_labels, require_finite, upsampled


def split(
    classes: int, sizes: list[tuple[int, int]], seed: int = 0, used: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predictions that are right two times in three, labels with void; only the first ``used`` classes occur."""
    rng = np.random.default_rng(seed)
    pictures = []
    for size in sizes:
        labels = rng.integers(0, used or classes, size)
        prediction = np.where(
            rng.random(size) < 0.67, labels, rng.integers(0, used or classes, size)
        )
        labels[rng.random(size) < 0.1] = 255
        pictures.append((prediction, labels))
    return pictures


def counted(pictures: list[tuple[np.ndarray, np.ndarray]], classes: int) -> torch.Tensor:
    tally = Tally(classes, boundary=False)
    for prediction, labels in pictures:
        tally.add(torch.from_numpy(prediction), torch.from_numpy(labels))
    return tally.matrix


def by_hand(pictures: list[tuple[np.ndarray, np.ndarray]], classes: int) -> list[float | None]:
    """IoU of every class from sets of pixels, picture by picture."""
    ious: list[float | None] = []
    for k in range(classes):
        inter = union = 0
        for prediction, labels in pictures:
            ours, theirs = (prediction == k) & (labels != 255), labels == k
            inter, union = inter + int((ours & theirs).sum()), union + int((ours | theirs).sum())
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
    pictures = [*split(classes, sizes, used=used), (np.zeros((5, 4), int), np.full((5, 4), 255))]
    matrix, found = counted(pictures, classes), by_hand(pictures, classes)
    result = scores(matrix)
    assert result.per_class == pytest.approx(found, abs=1e-15)
    assert result.miou == pytest.approx(np.mean([iou for iou in found if iou is not None]))
    assert (
        result.absent
        == [k for k, iou in enumerate(found) if iou is None]
        == list(range(used or classes, classes))
    )

    prediction, labels = (np.concatenate([x[part].ravel() for x in pictures]) for part in (0, 1))
    prediction, labels = prediction[labels != 255], labels[labels != 255]
    reference = confusion_matrix(labels, prediction, labels=range(classes))
    np.testing.assert_array_equal(matrix.numpy(), reference)
    present = sorted(set(prediction) | set(labels))
    assert result.miou == pytest.approx(
        jaccard_score(labels, prediction, average="macro", labels=present)
    )
    assert result.pixel_accuracy == pytest.approx((prediction == labels).mean())
    recalls = [(prediction[labels == k] == k).mean() for k in np.unique(labels)]
    assert result.mean_accuracy == pytest.approx(np.mean(recalls)) and result.pixels == labels.size


def test_scores_equal_torchmetrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.classification import MulticlassJaccardIndex

    pictures = split(9, [(21, 34), (21, 34)], seed=3, used=6)
    theirs = MulticlassJaccardIndex(9, ignore_index=255, average="macro")
    for prediction, labels in pictures:
        theirs.update(torch.from_numpy(prediction), torch.from_numpy(labels))
    assert scores(counted(pictures, 9)).miou == pytest.approx(float(theirs.compute()), abs=1e-6)


def test_a_class_that_is_only_predicted_counts_zero_and_one_that_is_nowhere_not_at_all():
    labels, prediction = torch.tensor([[0, 0, 1, 255]]), torch.tensor([[0, 2, 1, 3]])
    result = Tally(5, boundary=False).add(prediction, labels).scores()
    assert result.per_class == [0.5, 1.0, 0.0, None, None] and result.absent == [3, 4]
    assert (
        result.miou == 0.5
        and result.accuracy == [0.5, 1.0, None, None, None]
        and result.mean_accuracy == 0.75
    )


def test_nothing_labelled_gives_no_score():
    result = (
        Tally(3, boundary=False)
        .add(torch.zeros(4, 5, dtype=torch.int64), torch.full((4, 5), 255))
        .scores()
    )
    assert (result.miou, result.pixel_accuracy, result.mean_accuracy, result.pixels) == (
        None,
        None,
        None,
        0,
    )
    assert result.per_class == [None] * 3 and result.absent == [0, 1, 2]


def test_counts_are_exact_and_small_types_do_not_overflow():
    labels = torch.full((300, 300), 2, dtype=torch.uint8)
    matrix = (
        Tally(200, boundary=False)
        .add(labels, labels)
        .add(torch.full_like(labels, 199), labels)
        .matrix
    )
    assert (
        matrix[2, 2] == 90_000
        and matrix[2, 199] == 90_000
        and matrix.sum() == 180_000
        and matrix.dtype == torch.int64
    )


@pytest.mark.parametrize(
    ("prediction", "labels"), [([[3]], [[0]]), ([[0]], [[3]]), ([[-1]], [[0]]), ([[0, 0]], [[0]])]
)
def test_numbers_outside_the_classes_are_refused(prediction, labels):
    for boundary in (False, True):
        with pytest.raises(ShapeError):
            Tally(3, boundary=boundary).add(torch.tensor(prediction), torch.tensor(labels))


@pytest.mark.parametrize("size", [(17, 23), (32, 48), (5, 7)])
def test_logits_are_upsampled_before_the_argmax(size):
    logits = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    wanted = np.stack(
        [
            np.argmax(
                [
                    np.asarray(
                        Image.fromarray(plane.numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
                    )
                    for plane in picture
                ],
                0,
            )
            for picture in logits
        ]
    )
    found = predict_labels(logits, size)
    assert found.shape == (2, *size) and found.dtype == torch.int64
    assert (
        found.numpy() == wanted
    ).mean() > 0.995  # ties of nearly equal scores may fall either way
    coarse = (
        logits.argmax(1).repeat_interleave(10, 1).repeat_interleave(10, 2)[:, : size[0], : size[1]]
    )
    assert size == (5, 7) or (found.shape == coarse.shape and not torch.equal(found, coarse))


# --- boundary IoU ------------------------------------------------------------------------------------------------------------------


def eroded_away(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The authors' boundary region: the mask, framed by background, without its erosions by a 3x3 square."""
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


def test_boundary_iou_equals_a_sum_over_masks():
    sizes, ours = [(60, 80), (75, 51), (60, 80)], Tally(5)
    inter, union = np.zeros(5), np.zeros(5)
    for seed, size in enumerate(sizes):
        labels, prediction = blobs(4, size, seed), blobs(4, size, seed, void=False)
        prediction = np.roll(prediction, 1 + seed, axis=1)
        ours.add(torch.from_numpy(prediction), torch.from_numpy(labels))
        pixels = max(1, int(round(0.02 * np.hypot(*size))))
        for k in range(5):
            a = eroded_away((prediction == k) & (labels != 255), pixels)
            b = eroded_away(labels == k, pixels)
            inter[k] += (a & b).sum()
            union[k] += (a | b).sum()
    wanted = [i / u if u else None for i, u in zip(inter, union, strict=True)]
    assert wanted[4] is None and ours.boundary_per_class() == pytest.approx(wanted)
    assert (
        ours.boundary_iou() == pytest.approx(np.mean(wanted[:4]))
        and 0.1 < ours.boundary_iou() < 0.9
    )


def test_boundary_iou_known_answers():
    labels = torch.zeros(100, 100, dtype=torch.int64)
    labels[20:80, 20:80] = 1
    perfect = Tally(3)
    perfect.add(labels, labels)
    assert perfect.boundary_iou() == 1.0 and perfect.boundary_per_class() == [1.0, 1.0, None]
    assert distance(100, 100) == 3 and int(perfect.table[3, 1, 1]) == 60**2 - 54**2
    # One pixel of shift hardly touches the IoU of a large square, and a good part of its outline.
    shifted, moved = Tally(3), labels.roll(1, 1)
    shifted.add(moved, labels)
    assert shifted.boundary_iou() < 0.85 < 0.95 < shifted.scores().miou


def test_boundary_iou_of_nothing_is_nothing():
    measure = Tally(3)
    measure.add(torch.zeros(9, 9, dtype=torch.int64), torch.full((9, 9), 255))
    assert measure.boundary_iou() is None and measure.boundary_per_class() == [None] * 3
    with pytest.raises(ShapeError):
        measure.add(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))


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
    assert single.boundary_per_class() == stacked.boundary_per_class()
    assert torch.equal(single.table, stacked.table)


@pytest.mark.parametrize(
    ("cells", "pixels"),
    [((6, 8), (48, 64)), ((5, 7), (37, 51)), ((12, 9), (5, 4)), ((1, 1), (3, 2))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_upsampling_by_matrices_is_torchs_bilinear_one(cells, pixels, dtype):
    logits = (
        torch.randn(2, 3, *cells, dtype=dtype)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )
    found = upsampled(logits, pixels)
    expected = torch.nn.functional.interpolate(
        logits, size=pixels, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    torch.testing.assert_close(
        *(
            torch.autograd.grad((x * weights).sum(), logits, retain_graph=True)[0]
            for x in (found, expected)
        )
    )


def test_logits_that_are_no_numbers_name_their_pictures():
    logits = torch.zeros(3, 2, 4, 5)
    require_finite(logits, ["a", "b", "c"])
    require_finite(torch.full((3, 2, 4, 5), 3e38), ["a", "b", "c"])  # their sum alone is infinite
    logits[1, 0, 0, 0], logits[2, 1, 3, :2] = float("nan"), float("-inf")
    with pytest.raises(
        FreqKDError, match="logits of b, c are not finite\n  got  3 of 80 numbers\n  try "
    ) as caught:
        require_finite(logits, ["a", "b", "c"])
    assert caught.value.exit_code == 1
