"""Logits resized to the labels, and labels predicted from them: against Pillow and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from freqkd_cli.errors import FreqKDError
from freqkd_cli.views import upsample
from freqkd_cli.views.upsample import (
    most_likely,
    predict_confidence,
    predict_labels,
    require_finite,
    upsampled,
)


@pytest.mark.parametrize("size", [(17, 23), (32, 48), (5, 7)])
def test_logits_are_upsampled_before_the_argmax(size):
    logits = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    expected = np.stack(
        [
            np.argmax(
                [
                    np.asarray(
                        Image.fromarray(plane.numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
                    )
                    for plane in image
                ],
                0,
            )
            for image in logits
        ]
    )
    labels = predict_labels(logits, size)
    assert labels.shape == (2, *size) and labels.dtype == torch.int64
    assert (
        labels.numpy() == expected
    ).mean() > 0.995  # ties of nearly equal scores may fall either way
    coarse = (
        logits.argmax(1).repeat_interleave(10, 1).repeat_interleave(10, 2)[:, : size[0], : size[1]]
    )
    assert size == (5, 7) or (labels.shape == coarse.shape and not torch.equal(labels, coarse))


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
    labels = upsampled(logits, pixels)
    expected = torch.nn.functional.interpolate(
        logits, size=pixels, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(labels, expected)
    weights = torch.randn_like(labels)
    torch.testing.assert_close(
        *(
            torch.autograd.grad((x * weights).sum(), logits, retain_graph=True)[0]
            for x in (labels, expected)
        )
    )


def test_logits_that_are_not_finite_name_their_images():
    logits = torch.zeros(3, 2, 4, 5)
    require_finite(logits, ["a", "b", "c"])
    require_finite(torch.full((3, 2, 4, 5), 3e38), ["a", "b", "c"])  # their sum alone is infinite
    logits[1, 0, 0, 0], logits[2, 1, 3, :2] = float("nan"), float("-inf")
    with pytest.raises(
        FreqKDError, match="logits of b, c are not finite\n  got  3 of 80 numbers"
    ) as caught:
        require_finite(logits, ["a", "b", "c"])
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("classes", [2, 255, 256, 257, 300, 40_000])
def test_class_numbers_do_not_wrap(classes):
    logits = torch.zeros(1, classes, 1, 3)
    numbers = torch.tensor([0, classes // 2, classes - 1])
    logits[0, numbers, 0, torch.arange(3)] = 1.0
    assert predict_labels(logits, (1, 3)).tolist() == [[numbers.tolist()]]


def test_the_first_of_equal_classes_is_taken():
    logits = torch.zeros(2, 300, 4, 5)
    logits[:, 270:280] = 1.0
    assert torch.equal(most_likely(logits), logits.argmax(1)) and most_likely(logits).max() == 270


@pytest.mark.parametrize("size", [(37, 51), (64, 96)])
def test_bands_of_rows_give_the_labels_of_the_whole_map(monkeypatch, size):
    logits = torch.randn(2, 5, 9, 13, generator=torch.Generator().manual_seed(1))
    expected = upsampled(logits, size).argmax(1)
    monkeypatch.setattr(upsample, "BAND", 5 * size[1] * 7)  # 7 rows of one image
    assert torch.equal(predict_labels(logits, size), expected)
    whole = upsampled(logits, size).softmax(1).amax(1)
    torch.testing.assert_close(predict_confidence(logits, size), whole)


@pytest.mark.parametrize("classes", [3, 7, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_of_some_classes_at_a_time_are_those_of_all(monkeypatch, classes, dtype):
    """Ties too: the first of equal classes is predicted."""
    torch.manual_seed(0)
    logits = torch.randint(-3, 3, (2, classes, 5, 7)).to(dtype)
    true = upsample.upsampled(logits, (40, 56)).argmax(1)
    assert torch.equal(upsample._labels_by_classes(logits, (40, 56), 2 * 4 * 40 * 56), true)
    monkeypatch.setattr(upsample, "BAND", classes * 56 * 3)
    monkeypatch.setattr(upsample, "CLASSES", 4)
    assert torch.equal(predict_labels(logits, (40, 56)), true)
