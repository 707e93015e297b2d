"""The metrics on request against scipy, scikit-image, scikit-learn, torchmetrics and numpy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.ndimage
import skimage.measure
import skimage.segmentation
import torch
from sklearn.metrics import jaccard_score, recall_score

from freqkd_cli import registry
from freqkd_cli.metrics import boundary_f, calibration, edge_band, error_spectrum, object_size
from freqkd_cli.metrics._objects import object_areas
from freqkd_cli.metrics._windows import thickness

CLASSES, VOID = 5, 255
SIZES = [(60, 80), (75, 51), (120, 160)]


def blobs(size: tuple[int, int], seed: int, *, void: bool = True, grain: float = 4) -> np.ndarray:
    """Labels of four classes with regions of many sizes; class 4 is absent."""
    noise = np.random.default_rng(seed).normal(size=(4, *size))
    labels = np.argmax(scipy.ndimage.gaussian_filter(noise, (0, grain, grain)), 0)
    labels[:, size[1] // 2 : size[1] // 2 + 3] = 3
    if void:
        labels[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 3] = VOID
    return labels


def images(*, void: bool = True) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predictions with shifted outlines, specks and missing regions, and their labels."""
    pairs = []
    for seed, size in enumerate(SIZES):
        labels, other = blobs(size, seed, void=void), blobs(size, 10 + seed, void=False, grain=2)
        prediction = np.where(labels == VOID, other, labels)
        prediction = np.roll(prediction, (1, seed), (0, 1))
        wrong = np.random.default_rng(seed).random((size[0] // 15, size[1] // 15 + 1)) < 0.2
        wrong = wrong.repeat(15, 0).repeat(15, 1)[: size[0], : size[1]]
        prediction[: wrong.shape[0]] = np.where(
            wrong, other[: wrong.shape[0]], prediction[: wrong.shape[0]]
        )
        pairs.append((prediction, labels))
    return pairs


def counted(name: str, pairs: list[tuple[np.ndarray, np.ndarray]]):
    metric = registry.find("metrics", name).build(classes=CLASSES)
    for prediction, labels in pairs:
        metric.add(torch.from_numpy(prediction), torch.from_numpy(labels))
    return metric


def mean(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


# --- bands around edges


def test_bands_around_edges_equal_scikit_learn_on_the_pixels_of_a_scipy_filter():
    values = counted("edge_band", images()).values()
    for width in edge_band.WIDTHS:
        inside, outside = [], []
        for prediction, labels in images():
            around = {"size": 2 * width + 1, "mode": "nearest"}
            highest, lowest = (
                kind(labels, **around)
                for kind in (scipy.ndimage.maximum_filter, scipy.ndimage.minimum_filter)
            )
            for pixels, band in ((inside, highest != lowest), (outside, highest == lowest)):
                chosen = band & (labels != VOID)
                pixels.append((labels[chosen], prediction[chosen]))
        for name, pixels in (("edge", inside), ("interior", outside)):
            truth, guess = (np.concatenate(parts) for parts in zip(*pixels, strict=True))
            expected = jaccard_score(truth, guess, average="macro", labels=range(4))
            assert values[f"{name}_miou_{width}"] == pytest.approx(expected, abs=1e-12)
            assert 0.2 < expected < 0.99


def test_a_shift_by_one_pixel_is_wrong_near_edges_alone():
    labels = np.zeros((40, 60), int)
    labels[10:30, 20:40] = 1
    values = counted("edge_band", [(np.roll(labels, 1, 1), labels)]).values()
    assert values["interior_miou_1"] == 1 and values["edge_miou_1"] < 0.7
    # 40 wrong pixels; the band of width 1 holds 76 pixels of the square and 84 around it.
    assert values["edge_miou_1"] == pytest.approx((56 / 96 + 64 / 104) / 2)


# --- thin structures


def opened(mask: np.ndarray, side: int) -> np.ndarray:
    """scipy's opening with a square, the mask continued by its border."""
    framed = np.pad(mask, side, mode="edge")
    return scipy.ndimage.binary_opening(framed, np.ones((side, side)))[side:-side, side:-side]


@pytest.mark.parametrize("size", [(60, 80), (31, 17), (1, 9), (5, 5)])
@pytest.mark.parametrize("side", [2, 3, 4, 8, 9])
def test_thin_pixels_are_those_that_an_opening_takes_away(side, size):
    labels = blobs(size, seed=side, void=False)
    thick = thickness(torch.from_numpy(labels), [side]).numpy().astype(bool)
    for k in range(4):
        np.testing.assert_array_equal(thick & (labels == k), opened(labels == k, side))


def test_scores_of_thin_structures_equal_sets_of_pixels():
    metric = counted("thin_structures", images())
    for side in (4, 8, 16):
        right, labelled, false = (np.zeros(CLASSES) for _ in range(3))
        for prediction, labels in images():
            guess = np.where(labels == VOID, VOID, prediction)
            for k in range(CLASSES):
                truth_thin = (labels == k) & ~opened(labels == k, side)
                guess_thin = (guess == k) & ~opened(guess == k, side)
                right[k] += (truth_thin & (guess == k)).sum()
                labelled[k] += truth_thin.sum()
                false[k] += (guess_thin & (labels != k)).sum()
        check(metric, f"thin_{{}}_{side}", right, labelled, false)


def check(metric, name: str, right: np.ndarray, labelled: np.ndarray, false: np.ndarray) -> None:
    """Compare IoU, mIoU and recall with those of counts by class."""
    union, values = labelled + false, metric.values()
    ious = [r / u if u else None for r, u in zip(right, union, strict=True)]
    recalls = [r / n if n else None for r, n in zip(right, labelled, strict=True)]
    assert metric.per_class()[name.format("iou")] == pytest.approx(ious, abs=1e-12)
    assert values[name.format("miou")] == pytest.approx(mean(ious), abs=1e-12)
    assert values[name.format("recall")] == pytest.approx(mean(recalls), abs=1e-12)
    assert 0 < mean(ious) < 1


# --- objects by size


@pytest.mark.parametrize("size", [(60, 80), (31, 17), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("grain", [0.3, 2])
def test_areas_of_objects_equal_scikit_image(size, grain):
    for seed in range(4):
        labels = blobs(size, seed, void=False, grain=grain)
        numbers = skimage.measure.label(labels, connectivity=2, background=-1)
        expected = np.bincount(numbers.ravel())[numbers]
        np.testing.assert_array_equal(object_areas(labels), expected)


def test_scores_by_object_size_equal_sets_of_pixels_of_scikit_image():
    big = [
        (np.kron(p, np.ones((3, 3), int)), np.kron(t, np.ones((3, 3), int))) for p, t in images()
    ]
    metric = counted("object_size", big)
    counts = np.zeros((3, 3, CLASSES))  # right, labelled, false; size; class
    for prediction, labels in big:
        guess = np.where(labels == VOID, VOID, prediction)
        for k in range(CLASSES):
            for values, other, kinds in ((labels, guess, (0, 1)), (guess, labels, (2,))):
                objects = skimage.measure.label(values == k, connectivity=2)
                for region in skimage.measure.regionprops(objects):
                    size = int(np.searchsorted((32**2, 96**2), region.area, side="right"))
                    hits = int((other[tuple(region.coords.T)] == k).sum())
                    for kind in kinds:
                        counts[kind, size, k] += (hits, region.area, region.area - hits)[kind]
    for number, size in enumerate(object_size.SIZES):
        check(metric, f"object_{{}}_{size}", *counts[:, number])


def test_sizes_together_are_the_pixels_of_the_miou():
    metric, whole = counted("object_size", images()), counted("iou", images())
    assert metric.counts.iou(slice(None)) == whole.per_class()["iou"]


def test_a_missed_small_object_and_a_speck_are_scored_as_small():
    labels = np.zeros((200, 200), int)
    labels[10:20, 10:20] = labels[100:140, 100:150] = 1
    prediction = labels.copy()
    prediction[10:20, 10:20] = 0  # in the middle of a large object
    prediction[60:65, 60:64] = 1
    values = counted("object_size", [(prediction, labels)]).values()
    assert values["object_recall_small"] == values["object_miou_small"] == 0
    assert values["object_recall_medium"] == values["object_miou_medium"] == 1
    assert values["object_recall_large"] == pytest.approx(1 - 20 / (200 * 200 - 2100))


# --- boundary F-score


def outlines(labels: np.ndarray, k: int) -> np.ndarray:
    """scikit-image's inner boundary of class k towards pixels with a class."""
    known = np.where(labels == VOID, k, labels)
    inner = skimage.segmentation.find_boundaries(known == k, connectivity=1, mode="inner")
    return inner & (labels == k)


@pytest.mark.parametrize("void", [False, True])
def test_boundary_f_equals_distances_of_scipy(void):
    metric = counted("boundary_f", images(void=void))
    counts = np.zeros((4, CLASSES))
    for prediction, labels in images(void=void):
        reach = max(1.0, 0.0075 * np.hypot(*labels.shape))
        guess = np.where(labels == VOID, VOID, prediction)
        for k in range(CLASSES):
            predicted, labelled = outlines(guess, k), outlines(labels, k)
            for row, (points, others) in enumerate(((predicted, labelled), (labelled, predicted))):
                to_others = scipy.ndimage.distance_transform_edt(~others)
                near = points & (to_others <= reach) if others.any() else points & False
                counts[2 * row : 2 * row + 2, k] += points.sum(), near.sum()
    precision, recall = (counts[row + 1, :4] / counts[row, :4] for row in (0, 2))
    f = 2 * precision * recall / (precision + recall)
    values = metric.values()
    assert metric.per_class()["boundary_f"] == pytest.approx([*f, None], abs=1e-12)
    assert values["boundary_f"] == pytest.approx(f.mean(), abs=1e-12)
    assert values["boundary_precision"] == pytest.approx(precision.mean(), abs=1e-12)
    assert values["boundary_recall"] == pytest.approx(recall.mean(), abs=1e-12)
    assert 0.3 < f.mean() < 0.95


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (3, 1.0), (4, 0.0)])
def test_an_outline_matches_up_to_the_tolerance(shift, expected):
    assert 3 < boundary_f.tolerance(300, 400) < 4
    labels = np.zeros((300, 400), int)
    labels[:, 200:] = 1
    prediction = np.zeros_like(labels)
    prediction[:, 200 + shift :] = 1
    assert counted("boundary_f", [(prediction, labels)]).values()["boundary_f"] == expected


def test_a_class_whose_outline_is_never_predicted_has_f_0_and_no_precision():
    labels = np.zeros((20, 20), int)
    labels[5:9, 5:9] = 1
    metric = counted("boundary_f", [(np.zeros_like(labels), labels)])
    assert metric.per_class()["boundary_f"] == [0.0, 0.0, None, None, None]
    assert metric.values()["boundary_precision"] is None


# --- energy of the error map


def test_error_energies_equal_numpy_and_add_up_to_the_wrong_pixels():
    values = counted("error_spectrum", images()).values()
    energies, known = np.zeros(6), 0
    for prediction, labels in images():
        wrong = ((prediction != labels) & (labels != VOID)).astype(float)
        known += (labels != VOID).sum()
        power = np.abs(np.fft.fft2(wrong, norm="ortho")) ** 2
        fy, fx = np.meshgrid(*map(np.fft.fftfreq, labels.shape), indexing="ij")
        rho = np.hypot(fy, fx) / 0.5
        edges = [0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 2]
        energies[0] += power[0, 0]
        for n in range(5):
            inside = (rho > edges[n] + 1e-9) & (rho <= edges[n + 1] + 1e-9)
            energies[n + 1] += power[inside].sum()
    assert list(values.values()) == pytest.approx(energies / known, abs=1e-6)
    accuracy = counted("accuracy", images()).values()["pixel_accuracy"]
    assert sum(values.values()) == pytest.approx(1 - accuracy, abs=1e-6)


def test_large_errors_have_low_frequencies_and_specks_high_ones():
    labels = np.zeros((128, 128), int)
    area, specks = labels.copy(), labels.copy()
    area[32:96, 32:96] = 1
    specks[::2, ::2] = 1  # as many wrong pixels
    values = [counted("error_spectrum", [(wrong, labels)]).values() for wrong in (area, specks)]
    name = "error_energy_above_1_2"
    assert values[0][name] < 0.01 and values[1][name] == pytest.approx(0.25 * 0.75)


def test_bands_are_those_of_the_spectra():
    from freqkd_cli.spectral.power import ring_sums

    wrong = torch.from_numpy(images()[0][0] > 1)
    energies = error_spectrum.band_energies(wrong)
    sums = ring_sums(wrong.float()[None, None], 0.25)
    assert energies[1:4].sum() == pytest.approx(sums.low, rel=1e-5)
    assert energies[4:].sum() == pytest.approx(sums.high, rel=1e-5)


# --- calibration


def test_calibration_error_equals_torchmetrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.classification import MulticlassCalibrationError

    reference = MulticlassCalibrationError(CLASSES, n_bins=15, norm="l1", ignore_index=VOID)
    metric = registry.find("metrics", "calibration").build(classes=CLASSES)
    sures, rights = [], []
    for seed, (_, labels) in enumerate(images()):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.from_numpy(labels)
        logits = torch.randn(1, CLASSES, *labels.shape, generator=generator)
        logits.scatter_add_(1, truth.clamp(max=4)[None, None], torch.ones(1, 1, *labels.shape))
        shares = (2 * logits).softmax(1)  # overconfident
        reference.update(shares, truth[None])
        sure, prediction = shares[0].max(0)
        metric.add(prediction, truth, sure)
        sures.append(sure[truth != VOID])
        rights.append((prediction == truth)[truth != VOID])
    values = metric.values()
    assert values["ece"] == pytest.approx(float(reference.compute()), abs=1e-6)
    gap = torch.cat(sures).double().mean() - torch.cat(rights).double().mean()
    assert values["overconfidence"] == pytest.approx(float(gap), abs=1e-6)
    assert values["ece"] > 0.02


def test_calibration_of_known_confidences():
    metric = calibration.build(classes=2)
    labels, sure = torch.tensor([[0, 0, 0, 0]]), torch.tensor([[1.0, 1.0, 0.6, 0.6]])
    metric.add(torch.tensor([[0, 1, 0, 0]]), labels, sure)
    # One bin is half right at 1.0, the other all right at 0.6.
    assert metric.values()["ece"] == pytest.approx(0.5 * 0.5 + 0.5 * 0.4)
    assert metric.values()["overconfidence"] == pytest.approx(0.8 - 0.75)


def test_recall_equals_scikit_learn_on_the_thin_pixels():
    values = counted("thin_structures", images()).values()
    truths, guesses = [], []
    for prediction, labels in images():
        for k in range(4):
            thin = (labels == k) & ~opened(labels == k, 8)
            truths.append(labels[thin])
            guesses.append(prediction[thin])
    truth, guess = np.concatenate(truths), np.concatenate(guesses)
    expected = recall_score(truth, guess, average="macro", labels=np.unique(truth))
    assert values["thin_recall_8"] == pytest.approx(expected, abs=1e-12)
